"""What must be known of a grid's cells before they are probed; runs in processes of its own.

Like the check before the first cell, these are forked from the server that has imported torch, and
answer in a JSON file.
"""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from greenlab.cell_process import end_with_parent
from greenlab.config import Config

logger = logging.getLogger(__name__)

REHEARSED_S = 0.3
"""Batches are timed for so long; two at least, the first of which is not counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Surveyed:
    """What a configuration does not say about its cell."""

    macs: int
    """Of one sample's forward pass."""
    train_samples: int
    """Of one pass."""
    test_samples: int


def survey_grid(grid: Sequence[Config], answer: Path) -> None:
    """Count the multiply-accumulates and samples of every cell, each distinct model once.

    Writes to `answer` what makes a `Surveyed` for each cell.
    """
    end_with_parent()
    from greenlab import data
    from greenlab.model_profile import profile_model
    from greenlab.network import build_model, check_output, contained

    logging.getLogger("greenlab").setLevel(logging.ERROR)  # what thop cannot count: not for now
    images: dict[str, Any] = {}
    lengths: dict[str, tuple[int, int]] = {}
    macs: dict[str, int] = {}
    surveyed = []
    for config in grid:
        dataset = config.dataset
        if (of_data := repr(dataset)) not in images:
            loaded = data.load(dataset, config.seed)
            images[of_data] = loaded.test.images[:1].float() / 255
            lengths[of_data] = len(loaded.train), len(loaded.test)
        if (of_model := repr((config.model, dataset))) not in macs:
            with contained():
                model = build_model(config.model, dataset.num_classes)
                check_output(model, images[of_data], config)  # lazy layers have weights after it
                macs[of_model] = profile_model(model, images[of_data]).macs
        num_train, num_test = lengths[of_data]
        surveyed.append(
            Surveyed(
                macs=macs[of_model],
                train_samples=dataset.num_samples or num_train,
                test_samples=dataset.num_samples or num_test * dataset.replicate_test,
            )
        )
    answer.write_text(json.dumps([asdict(one) for one in surveyed]))


def rehearse_cells(grid: Sequence[Config], answer: Path) -> None:
    """Time a few batches of each cell, in no way that could be published.

    Writes to `answer` the seconds that a batch takes, null where the cell does not run.
    """
    end_with_parent()
    batches_s: list[float | None] = []
    for config in grid:
        try:
            batches_s.append(_time_batches(config))
        except Exception:  # out of memory, as a rule: its probe will fail and say so
            logger.exception("a cell could not be rehearsed")
            batches_s.append(None)
    answer.write_text(json.dumps(batches_s))


def _time_batches(config: Config) -> float:
    """Seconds of one batch, once kernels are chosen and memory is there."""
    from greenlab.network import contained
    from greenlab.preflight import preflight
    from greenlab.preparation import run_batches
    from greenlab.workload import build_workload

    with contained():
        workload = build_workload(config, preflight(config).device)
        run_batches(workload, 1)
        workload.synchronise()
        num_batches, began_s = 0, time.monotonic()
        while (took_s := time.monotonic() - began_s) < REHEARSED_S:
            run_batches(workload, 1)
            workload.synchronise()
            num_batches += 1
        return took_s / num_batches
