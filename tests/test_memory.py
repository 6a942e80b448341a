"""What a grid takes of the machine's memory, cell by cell."""

from pathlib import Path

import pytest
from test_command import QUICK

from benchmarks.memory import run_watched


# A cell is a process of its own: what the first one takes is back before the second begins.
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_models_second_cell_takes_no_more_memory_than_its_first(tmp_path: Path) -> None:
    returncode, peak_bytes, whole_bytes = run_watched(
        ["-m", "model=densenet121", "seed=0,1", "batch_size=32", *QUICK], tmp_path
    )
    assert returncode == 0
    first, second = peak_bytes.values()
    assert second < 1.05 * first  # the allocator does not repeat itself to the page
    assert whole_bytes < 4 * 2**30
