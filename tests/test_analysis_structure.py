"""The rules that hold the analysis together: what may import what, and where libraries live."""

from pathlib import Path

import pytest
from conftest import ROOT
from test_structure import imports

PACKAGE = ROOT / "multirun_analysis"

ROWS = [
    {"statistics", "regression", "commands"},
    {"stores"},
    {"runs"},
    {"known_energy", "reference", "pairing", "style", "selection", "hits"},
    {"evidence", "pareto", "contrast", "predictions", "estimates"},
    {"claims", "choices", "estimate_text"},
    {"races"},
    {"advice_text"},
    {"verdicts"},
    {"model_advice", "advice_table"},
    {"advice"},
    {"figures"},
    {"publish"},
    {"execute"},
    {"pages"},
    {"export", "compare", "backtest"},
    {"__main__", "notebooks"},
]
PURE = [
    *("statistics", "known_energy", "evidence", "pareto", "contrast", "pairing", "claims", "hits"),
    *("selection", "choices", "races", "advice_text", "verdicts", "advice"),
    *("model_advice", "advice_table", "regression", "estimates"),
]
"""Arrays and frames in, numbers out: no figures, no MLflow, no files."""

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py" and "exports" not in path.parts
}


def room(module: str) -> str:
    return module.partition(".")[0]


def row_of(module: str) -> int:
    [row] = [number for number, names in enumerate(ROWS) if room(module) in names]
    return row


def own_imports(path: Path) -> set[str]:
    found = [name.split(".") for name in imports(path)]
    return {parts[1] for parts in found if parts[0] == "multirun_analysis" and len(parts) > 1}


def libraries(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def test_every_module_has_its_place() -> None:
    assert {room(module) for module in MODULES} == set().union(*ROWS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    below: set[str] = set().union(*ROWS[: row_of(module)])

    assert own_imports(MODULES[module]) - {room(module)} <= below


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) in PURE])
def test_what_is_pure_draws_nothing_and_reads_nothing(module: str) -> None:
    assert not libraries(MODULES[module]) & {"matplotlib", "mlflow", "sqlalchemy", "IPython"}


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) == "figures"])
def test_figures_know_no_store_and_no_files(module: str) -> None:
    assert not libraries(MODULES[module]) & {"mlflow", "sqlalchemy", "IPython", "pathlib", "os"}


@pytest.mark.parametrize(("library", "homes"), [("mlflow", {"stores", "export"}), ("torch", set())])
def test_each_library_has_one_home(library: str, homes: set[str]) -> None:
    users = {room(module) for module, path in MODULES.items() if library in libraries(path)}

    assert users == homes
