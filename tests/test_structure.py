"""The rules that hold the code together, read off its syntax: what may import what, and where.

Imports point down only. A module may import those of the rows above its own; `greenlab.meters.x`
counts as `meters`. Imports inside functions count like any other.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "greenlab"

ROWS = [
    {"errors", "logs"},
    {"energy", "targets", "simulated", "carbon"},
    {"config", "uncertainty"},
    {"record", "scaling"},
    {"trace", "plan"},
    {"extrapolation", "stretches", "learning_curve"},
    {"prediction"},
    {"promise"},
    {"metrics", "hindsight"},
    {"forecast_text"},
    {"description"},
    {"meters", "data", "models", "model_profile", "quality", "environment", "views"}
    | {"network", "factors", "agenda", "machine_lock"},
    {"account", "rivals", "trace_file", "grid"},
    {"execution", "cuda_graphs"},
    {"tracking", "sampler", "workload", "idle", "end_table", "ledger", "serving"},
    {"postgres"},
    {"phases", "power_plot", "preflight"},
    {"preparation"},
    {"experiment"},
    {"cell_process", "warm"},
    {"run", "survey"},
    {"plan_table"},
    {"planning"},
    {"landing", "selftest"},
    {"node"},
    {"launchers"},
    {"multirun"},
    {"resume"},
    {"sweep"},
    {"__main__", "sync", "doctor", "ui", "model_cards", "advise", "backtest", "estimate"}
    | {"server"},
]
LEAVES = {"options", "terminal"}
"""Import nothing of greenlab's; whoever likes may import them."""

HOMES = {
    "hydra": {"config", "options", "factors", "grid", "run", "sweep", "multirun", "__main__"}
    | {"node", "launchers", "launchers.slurm", "launchers.ray_cluster"},
    "omegaconf": {"config", "options", "factors", "grid", "run", "sweep", "resume", "__main__"}
    | {"node", "launchers.slurm", "launchers.ray_cluster"},
    "submitit": {"launchers.slurm"},
    "ray": {"launchers.ray_cluster"},
    "mlflow": {"tracking"},
    "psycopg": {"postgres"},
    "zeus": {"meters.zeus_counters", "meters.power_limit", "environment"},
    "thop": {"model_profile"},
    "psutil": {"environment", "meters.tdp_model", "machine_lock", "data.placement"},
}
WITHOUT_TORCH = [
    "errors",
    "energy",
    "config",
    "grid",
    "record",
    "quality",
    "tracking",
    "options",
    "sweep",
    "__main__",
]

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
    and "sitecustomize" not in path.parts  # it installs config and options for whoever imports it
}


def imports(path: Path, *, module_level: bool = False) -> Iterator[str]:
    """Dotted names that a file imports, `greenlab.meters.counter.Counter` in full."""
    tree = ast.parse(path.read_text())
    for node in tree.body if module_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_of_greenlab(module: str) -> set[str]:
    """Top-level modules of greenlab that a module imports, its own package left out."""
    own = module.partition(".")[0]
    found = [name.split(".") for name in imports(MODULES[module])]
    return {parts[1] for parts in found if parts[0] == "greenlab" and len(parts) > 1} - {own}


def libraries(module: str) -> set[str]:
    return {name.partition(".")[0] for name in imports(MODULES[module])}


def is_front_door(module: str) -> bool:
    """Whether `python -m` runs it: it stands above all, and nothing imports it."""
    return module.endswith(".__main__")


def row_of(module: str) -> int:
    if is_front_door(module):
        return len(ROWS)
    [row] = [number for number, names in enumerate(ROWS) if module.partition(".")[0] in names]
    return row


def test_every_module_has_its_place() -> None:
    placed = LEAVES.union(*ROWS)

    assert {module.partition(".")[0] for module in MODULES} == placed


@pytest.mark.parametrize("module", sorted(MODULES.keys() - LEAVES))
def test_imports_point_down(module: str) -> None:
    below: set[str] = LEAVES.union(*ROWS[: row_of(module)])

    assert imports_of_greenlab(module) <= below


@pytest.mark.parametrize("module", sorted(LEAVES))
def test_a_leaf_imports_nothing_of_greenlab(module: str) -> None:
    assert imports_of_greenlab(module) == set()


@pytest.mark.parametrize("library", HOMES)
def test_a_library_has_one_home(library: str) -> None:
    users = {module for module in MODULES if library in libraries(module)}

    assert users
    assert users <= HOMES[library]


def test_only_front_doors_know_the_analysis() -> None:
    users = {
        module.partition(".")[0]
        for module in MODULES
        if "multirun_analysis" in libraries(module) and not is_front_door(module)
    }

    assert users
    assert users <= ROWS[-1]


def test_the_measuring_process_does_not_know_mlflow() -> None:
    reached: set[str] = set()
    to_visit = ["cell_process"]
    while to_visit:
        name = to_visit.pop()
        inside = [
            module
            for module in MODULES
            if (module == name or module.startswith(f"{name}.")) and not is_front_door(module)
        ]
        new = set().union(*map(imports_of_greenlab, inside)) - reached
        reached |= new
        to_visit += new

    assert "tracking" not in reached


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_torch_is_not_imported_by(module: str) -> None:
    assert "torch" not in libraries(module)


def test_the_front_door_opens_without_torch_and_mlflow() -> None:
    code = (
        "import sys, greenlab.__main__, greenlab.sync, greenlab.quality, greenlab.estimate\n"
        "print({'torch', 'mlflow'} & sys.modules.keys())"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout

    assert shown.strip() == "set()"


def test_mlflow_is_imported_only_where_it_is_needed() -> None:
    at_once = {name.partition(".")[0] for name in imports(MODULES["tracking"], module_level=True)}

    assert "mlflow" not in at_once


def test_the_main_path_is_under_150_lines() -> None:
    assert len(MODULES["experiment"].read_text().splitlines()) < 150


@pytest.mark.parametrize("module", MODULES)
def test_every_module_opens_with_what_it_is(module: str) -> None:
    source = MODULES[module].read_text()

    assert ast.get_docstring(ast.parse(source)) or not source.strip()
