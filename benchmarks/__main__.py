"""All benchmarks of greenlab itself, one after the other: `make bench`, 17 minutes on two cores.

    python -m benchmarks
    python -m benchmarks startup sampler

Each runs in a process of its own. Their figures go to docs/results/benchmarks-MACHINE.json, with
the machine and the versions that they were taken on, and to a table beside it. Leave the machine
alone meanwhile. Exits with 1 where a target is missed, which the table says.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import Figure, read_figures
from greenlab.environment import describe_environment

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """One script."""

    module: str
    title: str
    arguments: tuple[str, ...] = ()


ALL = (
    Benchmark(module="training_loop", title="The loop beside the paper's"),
    Benchmark(module="overhead", title="What measuring adds to what is measured"),
    Benchmark(module="data_loading", title="Data", arguments=("--seconds", "0.5")),
    Benchmark(module="startup", title="Start-up", arguments=("--starts", "5")),
    Benchmark(module="sampler", title="The sampler", arguments=("--repetitions", "3")),
    Benchmark(module="grid_scale", title="Grids of 10, 100 and 1,000 cells"),
)


def run(benchmark: Benchmark, answer: Path) -> list[Figure]:
    """Run one; what it prints goes to the terminal."""
    subprocess.run(
        [
            *(sys.executable, "-m", f"benchmarks.{benchmark.module}", "--json", str(answer)),
            *benchmark.arguments,
        ],
        cwd=ROOT,
        check=False,  # 1: a target is missed, which its figures say
    )
    return read_figures(answer)


def describe_machine() -> dict[str, Any]:
    """What the figures depend on."""
    here = describe_environment()
    return {
        "machine": here.machine,
        "cpu": here.cpu_name,
        "num_logical_cpus": here.num_logical_cpus,
        "memory_bytes": here.memory_bytes,
        "is_virtual": here.is_virtual,
        "gpus": [gpu.name for gpu in here.gpus],
        "versions": here.versions,
        "commit": here.commit,
    }


def table(found: Sequence[tuple[Benchmark, Sequence[Figure]]]) -> str:
    """All figures as one table in Markdown."""
    lines = ["| figure | median | least to most | target |", "| --- | --: | --: | --: |"]
    for benchmark, figures in found:
        lines.append(f"| **{benchmark.title}** | | | |")
        for one in figures:
            spread = f"{min(one.values):.3g} to {max(one.values):.3g}"
            target = one.target + ("" if one.is_met else ", missed")
            lines.append(f"| {one.name}, {one.unit} | {one.median:.3g} | {spread} | {target} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run those that were named, or all; see the module for the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [one.module for one in ALL]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="default: docs/results")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}: {', '.join(names)}")
    chosen = [one for one in ALL if one.module in (options.names or names)]
    machine = describe_machine()
    found: list[tuple[Benchmark, list[Figure]]] = []
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="greenlab-") as folder:
        for one in chosen:
            found.append((one, run(one, Path(folder) / f"{one.module}.json")))
    took_s = time.monotonic() - began_s
    path = options.folder / f"benchmarks-{machine['machine']}.json"
    content = {
        "machine": machine,
        "took_s": round(took_s),
        "benchmarks": {
            one.module: [asdict(figure) | {"median": figure.median} for figure in figures]
            for one, figures in found
        },
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    path.with_suffix(".md").write_text(table(found))
    missed = [one.name for _, figures in found for one in figures if not one.is_met]
    print(f"{took_s / 60:.1f} minutes; {path} and the table beside it")
    print(f"missed: {', '.join(missed) or 'nothing'}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
