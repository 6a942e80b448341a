"""`python -m greenlab.models`: the table, the JSON, options of one's own, what is refused."""

import json
import sys
from pathlib import Path

import pytest
from conftest import ROOT, CommandLine

from greenlab.models.__main__ import main

OWN_MODEL = """
from torch import nn


def build(num_classes, size):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, num_classes))
"""


@pytest.fixture
def own_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of options with a network that lies beside its YAML and takes 64×64 alone."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    options = tmp_path / "my_conf" / "model"
    options.mkdir(parents=True)
    (options / "own_network_64.py").write_text(OWN_MODEL)
    (options / "own.yaml").write_text("_target_: own_network_64.build\nkwargs: {size: 64}\n")
    return tmp_path / "my_conf"


def cards(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert main(["--json", *arguments]) == 0
    shown: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return shown


def test_the_table_shows_what_a_model_weighs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=lenet"]) == 0
    printed = capsys.readouterr().out
    # 62,006 parameters of 4 bytes are 0.25 MB; 651,720 / 62,006 = 10.5.
    for part in ("lenet", "3×32×32", "62,006", "0.25", "0.65", "0.00%", "10.5"):
        assert part in printed
    assert "┃ trainable" not in printed
    # By layer type: 352,800 + 240,000 and 48,000 + 10,080 + 840.
    assert "592,800" in printed
    assert "58,920" in printed


def test_json_holds_every_number_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    [card] = cards(capsys, "model=lenet", "model.freeze=[conv1]", "dataset.num_classes=4")
    assert card["input_shape"] == [3, 32, 32]
    assert card["takes_the_data"] is True
    parameters = 62_006 - 6 * 85  # six classes less
    assert card["parameters"] == parameters
    assert card["trainable_parameters"] == parameters - 456
    assert card["size_bytes"] == 4 * parameters
    assert card["macs"] == card["macs_exact"] == 651_720 - 6 * 84
    assert card["macs_per_parameter"] == card["macs"] / card["trainable_parameters"]  # type: ignore[operator]


def test_frozen_layers_show_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=lenet", "model.freeze=[conv1]"]) == 0
    printed = capsys.readouterr().out
    assert "┃ trainable" in printed
    assert "61,550" in printed  # 62,006 − 456


def test_a_network_beside_its_yaml_is_shown_at_the_shape_that_it_takes(
    capsys: pytest.CaptureFixture[str], own_options: Path
) -> None:
    [card] = cards(capsys, "--config-dir", str(own_options), "model=own")
    assert card["input_shape"] == [3, 64, 64]
    assert card["takes_the_data"] is False
    assert card["parameters"] == 3 * 64 * 64 * 10 + 10
    assert main(["--config-dir", str(own_options), "model=own,lenet"]) == 0
    printed = capsys.readouterr().out
    assert "3×64×64*" in printed
    assert "dataset.image_size" in printed


def test_at_its_own_shape_it_takes_the_data(
    capsys: pytest.CaptureFixture[str], own_options: Path
) -> None:
    at_64 = ("dataset=synthetic", "dataset.image_size=64")
    [card] = cards(capsys, "--config-dir", str(own_options), "model=own", *at_64)
    assert card["takes_the_data"] is True


def test_the_models_that_work_are_shown_beside_those_that_do_not(
    capsys: pytest.CaptureFixture[str], own_options: Path
) -> None:
    (own_options / "model" / "broken.yaml").write_text("_target_: [unclosed\n")
    (own_options / "model" / "missing.yaml").write_text("_target_: nowhere.build\n")
    assert main(["--config-dir", str(own_options), "model=lenet,broken,missing"]) == 1
    shown = capsys.readouterr()
    assert "62,006" in shown.out
    assert "broken.yaml" in shown.err
    assert "nowhere" in shown.err


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("model=nope", ["nope", "lenet"]),
        ("model=glob(zzz*)", ["no cell matches"]),
        ("dataset.image_sise=3", ["image_sise"]),
        ("model.freeze=[conv9]", ["conv9"]),
    ],
)
def test_what_cannot_be_shown_is_refused(
    capsys: pytest.CaptureFixture[str], argument: str, parts: list[str]
) -> None:
    model = [] if argument.startswith("model=") else ["model=lenet"]
    assert main([*model, argument]) == 1
    refusal = capsys.readouterr().err
    for part in parts:
        assert part in refusal
    assert "Traceback" not in refusal


def test_an_option_of_ones_own_that_greenlab_s_would_hide_is_refused(
    capsys: pytest.CaptureFixture[str], own_options: Path
) -> None:
    (own_options / "model" / "resnet18.yaml").write_text("_target_: own_network_64.build\n")
    assert main(["--config-dir", str(own_options), "model=resnet18"]) == 1
    refusal = capsys.readouterr().err
    assert "model=resnet18 is one of greenlab's own options" in refusal
    assert "another name" in refusal


def test_a_copy_of_greenlab_s_own_option_is_no_other(
    capsys: pytest.CaptureFixture[str], own_options: Path
) -> None:
    original = ROOT / "conf" / "model" / "lenet.yaml"
    (own_options / "model" / "lenet.yaml").write_text(original.read_text())
    [card] = cards(capsys, "--config-dir", str(own_options), "model=lenet")
    assert card["parameters"] == 62_006


def test_a_target_without_an_option_is_shown_once_under_its_own_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    [card] = cards(capsys, "model._target_=greenlab.models.mobilenet.mobilenet")
    assert card["model"] == card["target"] == "greenlab.models.mobilenet.mobilenet"
    assert card["parameters"] == 3_217_226


def test_a_folder_of_options_that_is_not_there_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(["--config-dir", "nowhere"])
    assert refusal.value.code == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_finds_the_options_and_ones_own(
    greenlab: CommandLine, own_options: Path
) -> None:
    result = greenlab(
        "--config-dir", str(own_options), "--json", "model=glob(own*)", module="greenlab.models"
    )
    assert result.returncode == 0, result.stderr
    assert [card["model"] for card in json.loads(result.stdout)] == ["own"]
