"""Notebooks executed, and the pages of them: what a person gets from `make analysis`."""

import argparse
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from matplotlib.figure import Figure
from test_runs import SWEEP, Lab

from greenlab.errors import GreenlabError, OutputError
from multirun_analysis import __main__ as front_door
from multirun_analysis import commands, execute, export, publish
from multirun_analysis.runs import NothingToShow

SHOWS = """
# %% [markdown]
# # Energy & MACs
# What does a sample cost? *In joules*.
#
# This paragraph is for the page alone.
# %%
from matplotlib.figure import Figure
from multirun_analysis import publish
from multirun_analysis.runs import NothingToShow, load
# %% tags=["parameters"]
tracking_uri = experiment = sweep = against = None
# %%
loaded = load(tracking_uri, experiment, sweep)
publish.opening(loaded)
def draw(cells):
    figure = Figure()
    figure.subplots().plot(cells["energy/net_j"])
    return figure
def nothing():
    raise NothingToShow("It needs <three> sizes: python -m greenlab batch_size=8,32,128")
publish.figure("joules", draw, loaded.cells, caption="Joules < kilojoules.")
publish.figure("sizes", nothing, caption="Sizes.")
publish.table("cells", loaded.cells[["model", "energy/net_j"]], caption="Every cell.")
finding = {"claim": "It <holds>", "section": "5.2", "series": "lab", "phase": "train"}
finding |= {"range": [0.7, None], "would_decide": "python -m greenlab -m model=lenet"}
finding |= {"value": 0.5, "low": 0.25, "high": None, "num": 14, "statistic": "Pearson"}
publish.json("claims", [finding | {"verdict": "not decidable", "reason": "few"}])
publish.closing(loaded)
"""
FAILS = """
# %% [markdown]
# # It fails
# %%
print("as far as this")
1 / 0
"""
NOTHING = """
# %%
class NothingToShow(Exception): ...
raise NothingToShow("It needs a second epoch.")
# %% [markdown]
# A heading over nothing.
"""
TELLS = """
# %% tags=["parameters"]
sweep = tracking_uri = "not injected"
# %%
print("SWEEP", sweep, "AGAINST", against, "URI", tracking_uri)
"""
WAITS = """
# %%
import os, pathlib, time
pathlib.Path({started!r}).write_text(str(os.getpid()))
time.sleep(60)
"""


class Place:
    """A store with a sweep in it, notebooks, and where their export goes."""

    def __init__(self, folder: Path, empty_store: Path) -> None:
        self.notebooks = folder / "notebooks"
        self.output = folder / "exports"
        self.final = self.output / SWEEP
        shutil.copy(empty_store, folder / "mlflow.db")
        with sqlite3.connect(folder / "mlflow.db") as database:
            location = [(folder / "mlartifacts").as_uri()]
            database.execute("UPDATE experiments SET artifact_location = ?", location)
        self.notebooks.mkdir()
        (folder / "landed").mkdir()
        self.lab = Lab(f"sqlite:///{folder / 'mlflow.db'}", folder / "landed")

    def write(self, **sources: str) -> None:
        for name, source in sources.items():
            (self.notebooks / f"{name}.py").write_text(source)

    def arguments(self, *options: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        commands.export(parser)
        where = ["--tracking-uri", self.lab.uri, "--output", str(self.output)]
        return parser.parse_args([*where, *options])

    def export(self, *options: str) -> int:
        return export.main(self.arguments(*options), self.notebooks)

    def page(self, name: str) -> str:
        return (self.final / f"{name}.html").read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Place:
    place = Place(tmp_path_factory.mktemp("place"), empty_store)
    place.write(macs=SHOWS, broken=FAILS, learning=NOTHING)
    place.lab.sweep(SWEEP)
    place.lab.land()
    return place


@pytest.fixture(scope="module")
def exported(place: Place) -> Place:
    assert place.export() == 1  # one fails
    return place


def test_figures_tables_and_findings_lie_beside_the_pages(exported: Place) -> None:
    found = {str(path.relative_to(exported.final)) for path in exported.final.rglob("*.*")}

    assert found == {
        *("index.html", "macs.html", "broken.html", "learning.html"),
        *("figures/joules.png", "figures/joules.svg", "tables/cells.csv"),
        *("tables/all_cells.csv", "tables/all_epochs.csv", "tables/all_left_out.csv"),
        *("claims.json", "manifest.json"),
    }
    # The golden record's net energy: 2,850 J measured, and DRAM by a model.
    assert float(pd.read_csv(exported.final / "tables/cells.csv")["energy/net_j"].item()) >= 2850


def test_pages_fetch_nothing_from_a_network(exported: Place) -> None:
    for path in exported.final.glob("*.html"):
        text = path.read_text()
        assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", text), path.name
        assert not re.search(r"<script|@import|<link", text), path.name


def test_every_link_leads_somewhere(exported: Place) -> None:
    for path in exported.final.glob("*.html"):
        links = set(re.findall(r'(?:src|href)="([^"#]+)"', path.read_text()))
        missing = {link for link in links if not link.startswith("data:") and link != "claims.html"}
        assert all((exported.final / link).is_file() for link in missing), path.name


def test_the_index_shows_figures_and_what_is_missing(exported: Place) -> None:
    index = exported.page("index")

    assert "<p>What does a sample cost? <em>In joules</em>.</p>" in index
    assert "for the page alone" not in index
    assert '<img src="figures/joules.png" alt="Joules &lt; kilojoules."' in index
    assert (
        "It needs &lt;three&gt; sizes: <code>python -m greenlab batch_size=8,32,128</code>" in index
    )
    assert "It needs a second epoch." in index
    assert "ZeroDivisionError: division by zero" in index
    assert "~modelled, not measured:</strong> the DRAM energy of 1 of 1 cells" in index
    assert "It &lt;holds&gt;" in index
    assert "<strong>0.5</strong> [0.25, ∞], n = 14" in index
    assert "Pearson, claimed &gt; 0.7" in index
    assert "Would decide it: <code>python -m greenlab -m model=lenet</code>" in index


def test_the_notebooks_come_in_the_order_of_the_paper(exported: Place) -> None:
    sections = re.findall(r'<section id="(\w+)">', exported.page("index"))

    assert sections == ["findings", "learning", "macs", "broken"]


def test_the_page_of_a_notebook_that_failed_has_its_traceback(exported: Place) -> None:
    page = exported.page("broken")

    assert "as far as this" in page
    assert "Traceback (most recent call last)" in page


def test_a_notebook_with_nothing_to_show_shows_no_traceback(exported: Place) -> None:
    page = exported.page("learning")

    assert '<p class="missing">It needs a second epoch.</p>' in page
    assert "Traceback (most recent" not in page
    assert "A heading over nothing" not in page
    manifest = json.loads((exported.final / "manifest.json").read_text())["notebooks"]
    status = {name: notebook["status"] for name, notebook in manifest.items()}
    assert status == {"learning": "nothing to show", "macs": "ok", "broken": "failed"}


def test_an_export_of_some_stands_beside_the_whole_and_is_logged(
    exported: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    exported.write(tells=TELLS)
    capsys.readouterr()

    assert exported.export("--only", "tells,learning", "--log") == 0

    part = exported.output / f"{SWEEP}-part"  # the whole one stays
    assert {path.name for path in part.iterdir()} == {
        *("index.html", "tells.html", "learning.html", "manifest.json", "tables"),
    }
    assert {path.name for path in exported.output.iterdir()} == {SWEEP, part.name}
    told = f"SWEEP {SWEEP} AGAINST None URI {exported.lab.uri}"
    assert told in (part / "tells.html").read_text()
    assert "learning: It needs a second epoch." in capsys.readouterr().out
    [run_id] = exported.lab.load(SWEEP).sweeps["run_id"]
    logged = {file.path for file in exported.lab.store.client.list_artifacts(run_id, "analysis")}
    assert {"analysis/index.html", "analysis/tells.html"} <= logged


def test_an_export_replaces_the_one_before_but_no_file_of_the_users(exported: Place) -> None:
    part = exported.output / f"{SWEEP}-part"
    exported.write(learning=NOTHING)
    exported.export("--only", "learning")
    assert exported.export("--only", "learning") == 0
    assert not (part / "tells.html").exists()
    (part / "notes.txt").write_text("mine")

    with pytest.raises(OutputError, match=r"has written: notes\.txt"):
        exported.export("--only", "learning")

    assert (part / "notes.txt").read_text() == "mine"


def test_ctrl_c_kills_the_kernels_and_leaves_nothing(place: Place, tmp_path: Path) -> None:
    started = tmp_path / "started"
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    (notebooks / "waits.py").write_text(WAITS.format(started=str(started)))
    output = tmp_path / "exports"
    code = (
        "import sys; from pathlib import Path; from multirun_analysis import __main__, export\n"
        f"export.main.__defaults__ = (Path({str(notebooks)!r}),)\n"
        "sys.exit(__main__.main(sys.argv[1:]))"
    )
    where = ["--tracking-uri", place.lab.uri, "--output", str(output)]
    process = subprocess.Popen([sys.executable, "-c", code, *where], cwd=ROOT)
    try:
        while not (started.exists() and started.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    finally:
        process.kill()

    assert list(output.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


def test_an_unknown_notebook_is_refused_with_those_there_are(place: Place) -> None:
    with pytest.raises(GreenlabError, match=r"--only mac: .* there are learning, macs, broken"):
        place.export("--only", "mac")


def test_an_unknown_sweep_to_compare_with_is_refused(place: Place) -> None:
    with pytest.raises(GreenlabError, match="It has no other; run one first"):
        place.export("--against", SWEEP)


def test_an_experiment_without_cells_is_refused(tmp_path: Path, empty_store: Path) -> None:
    place = Place(tmp_path, empty_store)

    with pytest.raises(GreenlabError, match="no cells to analyse"):
        place.export()


def test_cells_without_a_sweep_have_no_run_to_be_logged_to(
    tmp_path: Path, empty_store: Path
) -> None:
    place = Place(tmp_path, empty_store)
    place.lab.land()

    with pytest.raises(GreenlabError, match="--log needs one sweep"):
        place.export("--sweep", "all", "--log")


def test_a_folder_of_ones_own_is_not_replaced(place: Place, tmp_path: Path) -> None:
    (tmp_path / SWEEP).mkdir()
    (tmp_path / SWEEP / "thesis.tex").touch()

    with pytest.raises(OutputError, match="holds what no export has written"):
        place.export("--output", str(tmp_path))

    assert (tmp_path / SWEEP / "thesis.tex").exists()


def test_what_was_asked_wrongly_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert front_door.main(["--tracking-uri", f"sqlite:///{tmp_path}/none.db"]) == 2
    assert "there is no such file" in capsys.readouterr().err


def test_a_password_does_not_get_into_the_notebook() -> None:
    fields = {"experiment": "lab", "sweep": "s", "against": None, "where": None}
    uri = "postgresql://me:secret@host/db"

    assert "secret" not in execute.Parameters(tracking_uri=uri, **fields).source()
    assert "'sqlite:////x'" in execute.Parameters(tracking_uri="sqlite:////x", **fields).source()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(publish.EXPORT, str(tmp_path))
    monkeypatch.setenv(publish.NOTEBOOK, "macs")
    return tmp_path


def draw() -> Figure:
    figure = Figure()
    figure.subplots().plot([1, 2], label="a")
    figure.legend()
    return figure


def test_the_same_figure_is_the_same_files(kept: Path) -> None:
    publish.figure("one", draw, caption="A line.")
    publish.figure("two", draw, caption="A line.")

    for kind in ("png", "svg"):
        first, second = (kept / f"figures/{name}.{kind}" for name in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()


def test_a_table_is_kept_with_every_digit(kept: Path) -> None:
    frame = pd.DataFrame({"joules": [0.1 + 0.2, 1e300, np.nan], "model": ["a,b", "<c>", ""]})

    publish.table("t", frame, caption="Joules.")

    read = pd.read_csv(kept / "tables/t.csv", dtype=str, keep_default_na=False)
    assert list(read["joules"]) == ["0.30000000000000004", "1e+300", ""]
    assert list(read["model"]) == list(frame["model"])


def test_names_and_captions_are_checked(kept: Path) -> None:
    publish.figure("line", draw, caption="A line.")

    with pytest.raises(ValueError, match="published already"):
        publish.figure("line", draw, caption="Another line.")
    with pytest.raises(ValueError, match="sentence that ends in a full stop"):
        publish.figure("other", draw, caption="no sentence")
    with pytest.raises(ValueError, match="becomes a file's name"):
        publish.figure("../other", draw, caption="A line.")


def test_only_nothing_to_show_is_no_error(kept: Path) -> None:
    def nothing() -> Figure:
        raise NothingToShow("More epochs are needed.")

    def broken() -> Figure:
        raise KeyError("energy/net_j")

    publish.figure("a", nothing, caption="A line.")
    publish.table("b", lambda: pd.DataFrame(nothing()), caption="A table.")
    with pytest.raises(KeyError):
        publish.figure("c", broken, caption="A line.")

    noted = (kept / publish.MANIFESTS / "macs.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in noted] == ["missing", "missing"]


def test_outside_an_export_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(publish.EXPORT, raising=False)
    monkeypatch.chdir(tmp_path)

    publish.figure("line", draw, caption="A line.")
    publish.json("claims", [])

    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="not JSON compliant"):
        publish.json("claims", [float("nan")])
