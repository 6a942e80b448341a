"""Every YAML under conf/ composes and says how to run it; the paper's machines are the paper's."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from conftest import CONF, make_config

GROUPS = ["model", "hardware", "batch_size", "phase", "dataset"]
OPTIONS = [
    f"{group}={path.stem}" for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))
]
PRESETS = [path.stem for path in sorted((CONF / "experiment").glob("*.yaml"))]
FILES = [str(path.relative_to(CONF)) for path in sorted(CONF.rglob("*.yaml"))]
GROUP_FILES = [name for name in FILES if "/" in name and not name.startswith("hydra/")]


def comments(name: str) -> Sequence[str]:
    """The comment that a file opens with, Hydra's `@package` line left out."""
    lines = (CONF / name).read_text().splitlines()
    opening = [line for line in lines if not line.startswith("# @package")]
    return opening[: next(n for n, line in enumerate(opening) if not line.startswith("#"))]


@pytest.mark.parametrize("group", [*GROUPS, "experiment"])
def test_every_group_has_options(group: str) -> None:
    assert list((CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes(option: str) -> None:
    make_config(option)  # a key that is no field of the schema would be refused


@pytest.mark.parametrize("phase", ["train", "inference"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes_with_each_phase(preset: str, phase: str) -> None:
    settings = make_config(f"experiment={preset}", f"phase={phase}")

    assert settings.phase.kind.name == phase


@pytest.mark.parametrize("name", FILES)
def test_every_file_opens_with_a_comment(name: str) -> None:
    assert comments(name)


@pytest.mark.parametrize("name", GROUP_FILES)
def test_every_option_says_in_its_first_line_how_to_run_it(name: str) -> None:
    group, option = name.removesuffix(".yaml").split("/")
    command = comments(name)[0].partition("python -m greenlab ")[2]

    assert f"{group}={option}" in command.split()


# ----------------------------------------------------------------------------------- batch sizes

BATCH_SIZES = {4, 8, 16, 32, 64, 96, 128, 160, 192, 224, 256}


def test_the_batch_sizes_are_the_papers() -> None:
    assert {int(path.stem) for path in (CONF / "batch_size").iterdir()} == BATCH_SIZES


@pytest.mark.parametrize("size", sorted(BATCH_SIZES))
def test_a_batch_size_is_what_its_name_says(size: int) -> None:
    content = yaml.safe_load((CONF / "batch_size" / f"{size}.yaml").read_text())

    assert content == {"size": size}


# ------------------------------------------------------------------------------------- the paper

# Table 1: CPU, its TDP in W, GPU, its TDP in W, DIMMs, MHz of memory as sold.
TABLE_1 = {
    "hc1": ("i7-8700K", 95, "RTX 3080", 320, 4, 3600),
    "hc2": ("i9-11900KF", 125, "RTX 3090", 350, 4, 3200),
    "hc3": ("i5-12500", 65, "RTX A2000", 70, 2, 3200),
}


@pytest.mark.parametrize("name", TABLE_1)
def test_the_papers_machines_are_those_of_its_table(name: str) -> None:
    machine = make_config(f"hardware={name}").hardware
    assert machine.strict  # and no other machine will do
    assert machine.dimm_frequency_hz is not None
    found = (
        machine.cpu_name,
        machine.tdp_w.cpu,
        machine.gpu_name,
        machine.tdp_w.gpu,
        machine.num_dimms,
        machine.dimm_frequency_hz / 1e6,
    )

    assert found == TABLE_1[name]


# Sec. 5: batch 128, learning rate 0.001, momentum 0.9, weight decay 5e-4, 100 epochs.
def test_the_papers_training_has_the_papers_terms() -> None:
    settings = make_config("experiment=paper")
    phase = settings.phase
    terms = (phase.learning_rate, phase.momentum, phase.weight_decay, phase.epochs)

    assert (settings.batch_size.size, *terms) == (128, 0.001, 0.9, 5e-4, 100)


# The test set of 10,000 five times over makes 50,000 samples.
def test_the_papers_inference_is_over_50000_samples() -> None:
    dataset = make_config("experiment=paper", "phase=inference").dataset

    assert (dataset._target_, dataset.replicate_test) == ("greenlab.data.cifar10.load", 5)


def test_the_default_cell_needs_no_download() -> None:
    assert make_config().dataset._target_ == "greenlab.data.digits.load"


def test_no_option_hides_in_a_folder_that_is_no_group() -> None:
    folders = {path.name for path in CONF.iterdir() if path.is_dir()}

    assert folders == {*GROUPS, "experiment", "hydra", "resume"}


def test_numbers_carry_their_unit_in_the_key() -> None:
    seconds = [key for key in _keys(CONF / "config.yaml") if "settle" in key or "window" in key]

    assert seconds == ["settle_s", "window_s", "settle_celsius", "settle_max_s"]


def _keys(path: Path) -> list[str]:
    def walk(node: object) -> list[str]:
        if not isinstance(node, dict):
            return []
        return [key for name, below in node.items() for key in (str(name), *walk(below))]

    return walk(yaml.safe_load(path.read_text()))
