"""Peak memory of a grid and of each of its cells, read from /proc while the grid runs.

    python benchmarks/memory.py -m 'model=glob(*)' seed=0,1 dataset=synthetic dataset.num_samples=64

Takes what `python -m greenlab` takes and runs it in a folder of its own. docs/results/ holds the
sixteen models at batch 32 on a machine of two cores, in training and inference. A cell's peak is
the high-water mark of its process's resident memory; the grid's is the largest sum, over all
processes at one moment, of memory with shared pages split among those that share them. Prints CSV.
"""

import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

PERIOD_S = 0.05
MIB = 2**20


def cell_of(process: psutil.Process) -> str | None:
    """The folder of the cell that a process measures: it holds the cell's log open."""
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        target = link.readlink()
        if target.name == "greenlab.log":
            return target.parent.name
    return None


def high_water_bytes(process: psutil.Process) -> int:
    """The most resident memory that a process has had."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def run_watched(arguments: list[str], folder: Path) -> tuple[int, dict[str, int], int]:
    """Run greenlab; its exit code, bytes at the peak by cell in order, and of all processes."""
    grid = subprocess.Popen(
        [sys.executable, "-m", "greenlab", *arguments], cwd=folder, stdout=sys.stderr
    )
    root = psutil.Process(grid.pid)
    by_cell: dict[str, int] = {}
    whole = 0
    while grid.poll() is None:
        try:
            processes = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        together = 0
        for process in processes:
            try:
                together += process.memory_full_info().pss
                if (cell := cell_of(process)) is not None:
                    by_cell[cell] = max(by_cell.get(cell, 0), high_water_bytes(process))
            except (psutil.NoSuchProcess, OSError, ValueError):  # it has just ended
                continue
        whole = max(whole, together)
        time.sleep(PERIOD_S)
    return grid.wait(), by_cell, whole


def main() -> int:
    """Run the grid that the command line names and print the table."""
    with tempfile.TemporaryDirectory(prefix="greenlab-memory-") as folder:
        returncode, by_cell, whole = run_watched(sys.argv[1:], Path(folder))
    table = csv.writer(sys.stdout)
    table.writerow(["cell", "peak_mib"])
    table.writerows((cell, f"{peak / MIB:.0f}") for cell, peak in by_cell.items())
    table.writerow(["all processes together", f"{whole / MIB:.0f}"])
    return returncode


if __name__ == "__main__":
    raise SystemExit(main())
