"""What greenlab's commands load before they know what they are asked for: next to nothing."""

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType

from greenlab import grid, options

HEAVY = {
    *("torch", "torchvision", "mlflow", "numpy", "pandas", "scipy", "matplotlib", "pyarrow"),
    *("sklearn", "zeus", "thop", "pydantic", "psutil", "sqlalchemy", "IPython", "asyncio"),
    *("unittest", "multiprocessing", "sqlite3"),
}
TOOLS = (
    *("greenlab.doctor", "greenlab.sync", "greenlab.backtest", "greenlab.advise", "greenlab.ui"),
    *("greenlab.estimate", "greenlab.models", "greenlab.selftest", "multirun_analysis"),
    "greenlab.server",
)

TELLS_WHAT_IT_LOADED = """
import atexit, pathlib, runpy, sys
_, found, module, *arguments = sys.argv
atexit.register(lambda: pathlib.Path(found).write_text("\\n".join(sys.modules)))
sys.argv = [module, *arguments]
runpy.run_module(module, run_name="__main__")
"""
HELPS = """
import contextlib, io, runpy, sys
loaded = {}
for module in sys.argv[1:]:
    sys.argv = [module, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.suppress(SystemExit):
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert told.getvalue().startswith("usage: python -m " + module), module
    print(module, *sys.modules.keys() & HEAVY)
"""


def test_what_is_heavy_is_there_to_be_loaded() -> None:
    assert [name for name in HEAVY if find_spec(name) is None] == []


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        (["--help"], 0, "== Options"),
        (["idle.window_s=-1"], 1, "greenlab: idle.window_s is -1.0"),
        (["batch_size=3", "seed=x"], 1, "Value 'x' of type 'str' could not be converted"),
        (["-m", "model=glob(*)", "batch_size=3", "nope=1"], 1, "Key 'nope' not in 'Config'"),
        (["-m", "batch_size=3,4", "idle.window_s=3,-1"], 1, "idle.window_s is -1.0"),
    ],
    ids=["help", "value out of range", "wrong type", "unknown key", "grid with a wrong value"],
)
def test_help_and_refusals_load_nothing_that_measures(
    command: list[str], code: int, told: str, tmp_path: Path
) -> None:
    found = tmp_path / "modules"
    done = subprocess.run(
        [sys.executable, "-c", TELLS_WHAT_IT_LOADED, found, "greenlab", *command],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    loaded = set(found.read_text().split())

    assert done.returncode == code
    assert told in done.stdout + done.stderr
    assert loaded & (HEAVY | {"rich"}) == set()


def test_tools_read_their_options_before_they_load_what_they_work_with() -> None:
    code = f"HEAVY = {HEAVY}\n{HELPS}"
    shown = subprocess.run(
        [sys.executable, "-c", code, *TOOLS], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout

    assert shown.splitlines() == list(TOOLS)


def test_groups_are_listed_as_hydra_lists_them(tmp_path: Path) -> None:
    own = tmp_path / "model" / "deep" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("{}")
    (tmp_path / "model" / "other.yaml").write_text("{}")
    groups = ["", "model", "model/deep", "batch_size", "resume", "hydra", "hydra/launcher", "none"]
    with grid.open_options(tmp_path):
        loader = GlobalHydra.instance().config_loader()
        for kind in (None, *ObjectType):
            quick = {group: loader.get_group_options(group, kind) for group in groups}

            assert quick == {group: options._list(loader, group, kind) for group in groups}
        assert "other" in loader.get_group_options("model")


def environment() -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
