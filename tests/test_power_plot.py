"""power.png: what is drawn is what was measured, and what was not has a gap."""

from pathlib import Path

import numpy as np
import pytest

from greenlab.power_plot import MAX_POINTS, build_figure
from greenlab.record import Record, read_record
from greenlab.trace import Columns


@pytest.fixture
def golden() -> Record:
    return read_record(Path(__file__).parent / "golden")


def columns(record: Record, num: int = 301) -> Columns:
    """A sample each 0.1 s from the first idle window on: 150 W, 60 W, 3 W without end."""
    assert record.measurement is not None
    watts = {"gpu0": 100.0, "gpu1": 50.0, "cpu0": 60.0, "dram": 3.0, "dram0": 3.0}
    time_s = record.measurement.idle_before.started_at_s + 0.1 * np.arange(num)
    return {"time_s": time_s} | {f"{p}_power_w": np.full(num, w) for p, w in watts.items()}


def drawn(record: Record, trace: Columns) -> dict[str, np.ndarray]:
    """Corners of each component's area: seconds since the first idle window, and watts."""
    [axes] = build_figure(record, trace).axes
    areas = [area for area in axes.collections if "(" in str(area.get_label())]
    return {
        str(area.get_label()).split()[0]: np.concatenate(
            [path.vertices for path in area.get_paths()]
        )
        for area in areas
    }


def between(corners: np.ndarray, from_s: float, to_s: float) -> np.ndarray:
    return corners[(corners[:, 0] > from_s + 1e-3) & (corners[:, 0] < to_s - 1e-3)]


def test_components_lie_on_each_other(golden: Record) -> None:
    found = drawn(golden, columns(golden))
    tops = {name: corners[:, 1].max() for name, corners in found.items()}
    assert tops == pytest.approx({"GPU": 150, "CPU": 210, "DRAM": 213})


# Samples 100 to 119 stand for 10 to 12 s after the start.
def test_unknown_power_is_a_gap_and_not_zero(golden: Record) -> None:
    trace = columns(golden)
    trace["cpu0_power_w"][100:120] = np.nan
    found = drawn(golden, trace)
    assert len(between(found["CPU"], 9.9, 12.0)) == 0
    assert len(between(found["DRAM"], 9.9, 12.0)) == 0  # it would lie on the CPU
    assert between(found["GPU"], 9.9, 12.0)[:, 1].max() == pytest.approx(150)
    for corners in found.values():
        assert len(between(corners, 8.0, 9.9))
        assert len(between(corners, 12.0, 14.0))
    assert found["CPU"][:, 1].min() == pytest.approx(150)  # its foot, and nowhere 0 W


def test_a_sample_without_power_among_many_does_not_count_as_zero(golden: Record) -> None:
    trace = columns(golden, num=4 * MAX_POINTS)
    trace["cpu0_power_w"][::4] = np.nan
    found = drawn(golden, trace)
    assert found["CPU"][:, 1].max() == pytest.approx(210)
    assert np.isfinite(found["CPU"]).all()
