"""README.md keeps its word: every command in it is one that works, every file it names is there.

The quick tests compose each command and look its make targets up; `make test-slow` runs them all.
"""

import argparse
import csv
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, CommandLine
from pandas import DataFrame
from test_command import QUICK

from greenlab import postgres, server
from multirun_analysis import __main__ as front_door
from multirun_analysis import claims, commands, reference

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.split("  #")[0].strip()
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
    if line.strip()
]
GREENLAB = [command for command in COMMANDS if command.startswith("python -m greenlab ")]
MODELS = [command for command in COMMANDS if command.startswith("python -m greenlab.models")]
SELFTEST = [command for command in COMMANDS if command.startswith("python -m greenlab.selftest")]
ON_CLUSTERS = [command for command in GREENLAB if "hydra/launcher=" in command]
"""Run by tests/cluster, on real ones."""
POWER_LIMITS = next(command for command in COMMANDS if "hardware.power_limit_w=" in command)
ANALYSIS = [c for c in COMMANDS if c.startswith("python -m multirun_analysis")]
MAKE = [command for command in COMMANDS if command.startswith("make ")]
OF_RUNS = [
    command
    for command in COMMANDS
    if command.startswith(
        tuple(f"python -m greenlab.{m}" for m in ("backtest", "estimate", "advise"))
    )
]
"""Commands that read what was measured."""
SERVER = [command for command in COMMANDS if command.startswith("python -m greenlab.server")]
"""Run, over a PostgreSQL of their own, by cluster/test_group_server.py."""


def write_own_options(folder: Path) -> None:
    """The files that README.md shows, where it says that they are."""
    for language, block in BLOCKS:
        if language in ("yaml", "python"):
            path = folder / block.splitlines()[0].removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block)


def test_every_command_is_of_a_kind_that_is_tested() -> None:
    tested = {*GREENLAB, *MODELS, *SELFTEST, *ANALYSIS, *MAKE, *OF_RUNS, *SERVER}
    others = [c for c in COMMANDS if c not in tested]
    assert others == [
        "source .venv/bin/activate",
        "python -m greenlab",
        "python -m greenlab.doctor",
        "python -m greenlab.sync multirun outputs",
        'pip install "greenlab[slurm]"',
        POWER_LIMITS,
    ]


def test_the_two_commands_come_first() -> None:
    assert COMMANDS[:2] == ["make demo", "make test"]


@pytest.mark.parametrize("command", [*MAKE, *re.findall(r"`(make [a-z-]+)`", README)])
def test_every_make_target_exists(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{command.split()[1]}:.*## ", makefile, re.MULTILINE)


SLOW = [command for command in GREENLAB if "glob" in command]
"""Dozens of cells to compose, or hundreds."""


@pytest.mark.parametrize(
    "command",
    [pytest.param(c, marks=[pytest.mark.slow] if c in SLOW else []) for c in GREENLAB],
)
def test_every_grid_composes(greenlab: CommandLine, command: str) -> None:
    write_own_options(greenlab.folder)
    arguments = shlex.split(command)[3:]
    if "--help" not in arguments:
        # Composes and checks the whole grid, then stops where it cannot write.
        multirun = "-m" in arguments or any("experiment=" in part for part in arguments)
        arguments.append(f"hydra.{'sweep' if multirun else 'run'}.dir=/proc/nowhere")
    result = greenlab(*arguments)
    if "--help" in arguments:
        assert result.returncode == 0
    else:
        assert "=/proc/nowhere cannot be written" in result.stderr, result.stdout + result.stderr


@pytest.mark.slow
def test_power_limits_are_swept_as_written_and_refused_without_a_gpu(greenlab: CommandLine) -> None:
    """As far as a machine without CUDA goes: the grid composes, and says that there is no GPU."""
    arguments = shlex.split(POWER_LIMITS.partition("-m greenlab ")[2])
    greenlab.environment["CUDA_VISIBLE_DEVICES"] = ""  # on a machine that has one, too
    result = greenlab(*arguments)
    assert result.returncode == 1
    assert "hardware.device=cuda" in result.stderr, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", MODELS)
def test_every_model_card_is_shown(greenlab: CommandLine, command: str) -> None:
    write_own_options(greenlab.folder)
    result = greenlab(*shlex.split(command)[3:], module="greenlab.models")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("command", SELFTEST)
def test_the_joules_can_be_proved(greenlab: CommandLine, command: str) -> None:
    result = greenlab(*shlex.split(command)[3:], module="greenlab.selftest", timeout_s=300)
    assert result.returncode == 0, result.stdout + result.stderr


CASES = {
    "6 s": ("steady", "cpu"),
    "0.3 s": ("short", "cpu"),
    "6 s, DRAM": ("dram", "dram"),
    "6 s, a psys zone": ("psys", "cpu"),
    "6 s, one wrap": ("one_wrap", "cpu"),
    "6 s, a wrap after 0.5 s": ("early_wrap", "cpu"),
    "12 s, two wraps": ("many_wraps", "cpu"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_side_by_side_table_is_what_was_measured(case: str) -> None:
    with (ROOT / "docs" / "results" / "meters_side_by_side.csv").open() as file:
        rows = list(csv.DictReader(file))
    [line] = [line for line in README.splitlines() if line.startswith(f"| {case} |")]
    shown = [cell.split("%")[0].replace("−", "-") for cell in line.split("|")[2:6]]
    for meter, percent in zip(["greenlab", "zeus", "codecarbon", "pyjoules"], shown, strict=True):
        name, component = CASES[case]
        of_meter = [
            float(row["error_percent"])
            for row in rows
            if (row["case"], row["component"], row["meter"]) == (name, component, meter)
        ]
        assert float(percent) == pytest.approx(max(of_meter, key=abs), abs=0.051)


@pytest.mark.parametrize("path", re.findall(r"^([a-z_/.]+)  +[a-z]", README, re.MULTILINE))
def test_every_place_on_the_map_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:energy|power|task)/\w+)`", README))))
def test_every_metric_it_explains_is_logged(name: str) -> None:
    from greenlab.metrics import metrics
    from greenlab.record import read_record

    golden = read_record(ROOT / "tests" / "golden")
    golden.cell.config["carbon"] = {"country": "FRA", "price_per_kwh": 0.25}
    assert name in metrics(golden) | metrics(replace(golden, status="FAILED", measurement=None))


def test_it_names_the_sixteen_models() -> None:
    [named] = re.findall(r"10 classes: `([a-z0-9_\s]+)`", README)
    assert named.split() == sorted(path.stem for path in (ROOT / "conf" / "model").iterdir())


def test_it_has_a_result_and_its_numbers_are_from_the_file_it_names() -> None:
    path = re.findall(r"\((docs/results/demo_[\w./-]+\.csv)\)", README)[0]
    rows = [line.split(",") for line in (ROOT / path).read_text().splitlines()[1:]]
    table = README.partition("## A result")[2].partition("\n## ")[0]
    shown = re.findall(r"^\| (\w+) \| (\d+) \| (\w+) \| ~([\d,.]+) ±", table, re.MULTILINE)
    assert shown
    for model, batch_size, phase, net_j in shown:
        [row] = [row for row in rows if row[:3] == [model, batch_size, phase]]
        assert float(net_j.replace(",", "")) == pytest.approx(float(row[3]), abs=0.051)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "command", ["python -m greenlab", *(c for c in GREENLAB if c not in ON_CLUSTERS)]
)
def test_every_command_runs(greenlab: CommandLine, command: str) -> None:
    write_own_options(greenlab.folder)
    arguments = shlex.split(command)[3:]
    # As written, but for the time it takes: fewer samples, shorter windows.
    shorter = [s for s in QUICK if s.split("=")[0] not in " ".join(arguments)]
    result = greenlab(*arguments, *(shorter if "--help" not in arguments else ()), timeout_s=1400)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_reads_runs_finds_those_of_the_commands_above_it(greenlab: CommandLine) -> None:
    """A profile, its full runs and what is made of them, on fewer samples than as written."""
    for phase in ("profile", "train,inference"):
        result = greenlab("-m", "model=lenet", f"phase={phase}", *QUICK, timeout_s=300)
        assert result.returncode == 0, result.stdout + result.stderr
    told = {}
    for command in OF_RUNS:
        _, _, module, *arguments = shlex.split(command)
        result = greenlab(*arguments, module=module, timeout_s=120)
        told[command] = result.returncode, result.stdout + result.stderr
    by_module = {command.split()[2].partition(".")[2]: answer for command, answer in told.items()}
    assert by_module["backtest"][0] == by_module["advise"][0] == 0, by_module
    assert "MAPE" in by_module["backtest"][1]
    for command, (returncode, text) in told.items():
        if "estimate" in command:  # of one model nothing can be told: it says what would help
            assert returncode == 1, text
            assert "python -m greenlab -m" in text


CLAIMED = {
    "training takes three times": ("training_3x_inference", "both"),
    "durations of training and": ("durations_correlate", "both"),
    "training energy follows MACs,": ("macs_predict_energy", "train"),
    "training energy follows MACs per": ("macs_per_parameter_predict_energy", "train"),
    "MACs per parameter do it better": ("macs_per_parameter_better_than_macs", "train"),
    "many models infer": ("inference_below_limit", "inference"),
}


def test_the_papers_own_ledger_is_what_the_analysis_makes_of_its_data() -> None:
    findings = claims.ledger(claims.examine(reference.paper_hc3(), DataFrame()))
    for beginning, (claim, phase) in CLAIMED.items():
        [line] = [line for line in README.splitlines() if line.startswith(f"| {beginning}")]
        *_, value, interval, verdict, _ = line.split("|")
        [found] = findings[(findings["claim"] == claim) & (findings["phase"] == phase)].to_dict(
            "records"
        )
        shown = [value.split()[0], *interval.replace("−", "-").split(" to ")]
        for text, column in zip(shown, ("value", "low", "high"), strict=True):
            digits = len(text.strip().partition(".")[2])
            assert float(text) == pytest.approx(found[column], abs=0.51 * 10**-digits), line
        assert verdict.strip().startswith(found["verdict"]), line


@pytest.mark.parametrize("command", SERVER)
def test_every_server_command_is_understood(command: str) -> None:
    given = server.read_arguments(server.open_parser().parse_args(shlex.split(command)[3:]))
    postgres.check_address(given.database)
    assert given.host == "127.0.0.1"


@pytest.mark.parametrize("command", ANALYSIS)
def test_every_analysis_command_is_understood(
    command: str, greenlab: CommandLine, capsys: pytest.CaptureFixture[str]
) -> None:
    """As far as a store without those sweeps goes: it says which there are."""
    arguments = shlex.split(command)[3:]
    uri = f"sqlite:///{greenlab.folder / 'mlflow.db'}"
    assert front_door.main([*arguments, "--tracking-uri", uri]) == 2
    told = capsys.readouterr().err
    assert "experiment" in told or "sweep=" in told


def make(folder: Path, *words: str) -> str:
    """What make prints, whether or not the tests themselves were started by one."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--no-print-directory", *words],
        cwd=folder, env=own, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("command", [c for c in MAKE if c.startswith("make analysis")])
def test_every_choice_of_make_analysis_reaches_the_export(command: str) -> None:
    given = dict(word.split("=", 1) for word in shlex.split(command)[2:])
    planned = make(ROOT, "-n", *shlex.split(command)[1:])
    words = planned.partition("-m multirun_analysis export")[2].replace("\\\n", " ")
    parser = argparse.ArgumentParser()
    commands.export(parser)
    found = vars(parser.parse_args(shlex.split(words)))
    names = {"SWEEP": "sweep", "AGAINST": "against", "ANALYSIS": "only"}
    assert {name: found[key] for name, key in names.items()} == {
        name: given.get(name) for name in names
    }
    assert found["log"] == ("LOG" in given)
    assert found["where"] == ("$WHERE" if "WHERE" in given else None)  # never read by a shell


def test_a_condition_reaches_the_export_as_it_was_written(tmp_path: Path) -> None:
    where = "`energy/net_j` > 5 and model == 'lenet'"
    folder = tmp_path / "checkout"
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("pyproject.toml", "uv.lock", "Makefile"):
        shutil.copy(ROOT / name, folder)
    (folder / ".uv" / "bin").mkdir(parents=True)
    (folder / ".uv" / "bin" / "uv").touch()  # as after make setup: nothing is fetched
    (folder / ".venv" / ".ready").touch()
    python = folder / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\nfor word; do echo "[$word]"; done\n')
    python.chmod(0o755)
    told = make(folder, "analysis", f"WHERE={where}")
    assert f"[--where]\n[{where}]" in told
