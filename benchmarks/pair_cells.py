"""What measured and simulated pairs share: cells made without Hydra, and how long a profile was.

A cell here is what `python -m greenlab` would make of the same configuration, without the second
that its command line takes.
"""

from greenlab import config as configuration
from greenlab.config import Config
from greenlab.record import Cell, Record

SHARE = 24
"""A full run is to be so many times as long as the profile of its kind: 20, and a margin where it
turns out faster."""

DONE_FILE = "done"
"""In the folder of what need not be measured again."""


def make_cell(config: Config, *, model: str, uid: str, at_s: float, **choices: str) -> Cell:
    """A cell that is run alone."""
    chosen = {
        "model": model,
        "batch_size": str(config.batch_size.size),
        "phase": config.phase.kind.name,
        "dataset": "synthetic",
    }
    return Cell(
        uid=uid,
        signature=configuration.signature(config),
        choices=chosen | choices,
        overrides=[],
        sweep="",
        position=1,
        num_cells=1,
        repetition=1,
        started_at_s=at_s,
        config=configuration.to_dict(config),
    )


def active_s(profile: Record, *, trains: bool) -> tuple[float, float]:
    """Length of a profile's stretches of one kind together, and their seconds per sample."""
    assert profile.measurement is not None, "a profile without a measurement"
    own = [one for one in profile.measurement.passes if one.trains == trains]
    together_s = sum(one.window.duration_s for one in own)
    return together_s, together_s / sum(one.outcome.num_samples for one in own)
