"""Option names that are numbers, on every route to Hydra; settings refused by their key.

A route is a way to have a grid composed: the compose API for one cell, and Hydra's own sweeper with
the loader that runs each of its cells, as greenlab/grid.py uses it.
"""

import copy
import math
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from conftest import CONF, make_config
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from greenlab import config
from greenlab.errors import ConfigError, GreenlabError

Compose = Callable[..., list[int]]


@pytest.fixture
def loaded() -> Iterator[GlobalHydra]:
    """Hydra on greenlab's own options."""
    with initialize_config_dir(str(CONF), version_base=None):
        yield GlobalHydra.instance()


@pytest.fixture
def sweep(loaded: GlobalHydra) -> Compose:
    """Batch sizes of the cells of `-m overrides…`, in order."""

    def sizes(*overrides: str) -> list[int]:
        loader = loaded.config_loader()
        parsed = OverridesParser.create(loader).parse_overrides(list(overrides))
        [cells] = BasicSweeper.split_arguments(parsed, max_batch_size=None)
        master = compose("config", return_hydra_config=True)
        return [
            config.from_omegaconf(loader.load_sweep_config(master, chosen)).batch_size.size
            for chosen in cells
        ]

    return sizes


def one(*overrides: str) -> int:
    return make_config(*overrides).batch_size.size


def refusal(*overrides: str) -> str:
    """Everything that the user is told: the error, and the one that it comes from."""
    with pytest.raises((HydraException, GreenlabError)) as caught:
        make_config(*overrides)
    return f"{caught.value}\n{caught.value.__cause__}"


# ------------------------------------------------------------------------------ numbers for names


def test_the_default_batch_size_is_32() -> None:
    assert one() == 32


@pytest.mark.parametrize("override", ["batch_size=64", "batch_size='64'", 'batch_size="64"'])
def test_a_number_names_an_option(override: str) -> None:
    assert one(override) == 64


def test_the_option_chosen_is_named_as_a_string(loaded: GlobalHydra) -> None:
    composed = compose("config", ["batch_size=64"], return_hydra_config=True)

    assert composed.hydra.runtime.choices.batch_size == "64"


def test_a_single_number_in_a_sweep(sweep: Compose) -> None:
    assert sweep("batch_size=64") == [64]


def test_a_list_makes_a_cell_of_each(sweep: Compose) -> None:
    assert sweep("batch_size=32,64,128") == [32, 64, 128]


def test_a_list_may_mix_files_and_other_numbers(sweep: Compose) -> None:
    assert sweep("batch_size=32,100") == [32, 100]


def test_a_glob_sees_the_files_alone(sweep: Compose) -> None:
    paper = [4, 8, 16, 32, 64, 96, 128, 160, 192, 224, 256]

    assert sorted(sweep("batch_size=glob(*)")) == paper


# 32, 64, 96, 128: the end is excluded.
def test_a_range_makes_a_cell_of_each(sweep: Compose) -> None:
    assert sweep("batch_size=range(32,129,32)") == [32, 64, 96, 128]


def test_choice_makes_a_cell_of_each(sweep: Compose) -> None:
    assert sweep("batch_size=choice(16,32)") == [16, 32]


def test_a_product_with_another_group_keeps_the_numbers(sweep: Compose) -> None:
    assert sweep("model=lenet,vgg16", "batch_size=32,64") == [32, 64, 32, 64]


def test_a_preset_names_a_number() -> None:
    assert one("experiment=paper") == 128


def test_the_command_line_wins_over_a_preset() -> None:
    assert one("experiment=paper", "batch_size=64") == 64


def test_a_preset_in_a_sweep_names_a_number(sweep: Compose) -> None:
    assert sweep("experiment=paper", "model=lenet,vgg16") == [128, 128]


def test_any_positive_integer_is_a_batch_size() -> None:
    assert one("batch_size=100") == 100


def test_any_positive_integers_make_a_sweep(sweep: Compose) -> None:
    assert sweep("batch_size=100,1000") == [100, 1000]


WRONG_SIZES = ["0", "-5", "1.5", "abc", "true", "null", "1e3", "'32,64'"]


@pytest.mark.parametrize("size", WRONG_SIZES)
def test_a_batch_size_that_is_none_is_refused_by_its_key(size: str) -> None:
    assert "batch_size" in refusal(f"batch_size={size}")


@pytest.mark.parametrize("size", ["0", "abc"])
def test_a_batch_size_that_is_none_is_refused_in_a_sweep(size: str, sweep: Compose) -> None:
    with pytest.raises(HydraException, match=f"batch_size={size}: a batch holds a whole number"):
        sweep(f"batch_size=32,{size}")


def test_the_size_may_be_set_below_the_group() -> None:
    assert one("batch_size.size=48") == 48


# ---------------------------------------------------------------------------- options of one's own


@pytest.fixture
def my_conf(tmp_path: Path) -> Path:
    """A folder as `--config-dir` takes it."""
    (tmp_path / "batch_size").mkdir()
    (tmp_path / "model").mkdir()
    return tmp_path


def with_my_conf(folder: Path, *overrides: str) -> config.Config:
    return make_config(f"hydra.searchpath=[file://{folder}]", *overrides)


# 50 would be made up as size 50; the file says otherwise.
def test_a_yaml_of_ones_own_wins_over_a_made_up_number(my_conf: Path) -> None:
    (my_conf / "batch_size" / "50.yaml").write_text("size: 51\n")

    assert with_my_conf(my_conf, "batch_size=50").batch_size.size == 51


def test_a_model_of_ones_own_is_one_yaml(my_conf: Path) -> None:
    (my_conf / "model" / "mine.yaml").write_text("_target_: my.model\n")

    assert with_my_conf(my_conf, "model=mine").model._target_ == "my.model"


def test_a_yaml_of_ones_own_with_an_unknown_key_is_refused(my_conf: Path) -> None:
    (my_conf / "model" / "mine.yaml").write_text("_target_: my.model\ndepht: 18\n")

    with pytest.raises(HydraException) as caught:
        with_my_conf(my_conf, "model=mine")

    assert "depht" in f"{caught.value}{caught.value.__cause__}"


# -------------------------------------------------------------------------------------- refusals


def test_a_broken_yaml_of_ones_own_is_refused_by_file_and_line(my_conf: Path) -> None:
    (my_conf / "model" / "broken.yaml").write_text("_target_: [unclosed\n")
    with pytest.raises(
        HydraException, match=r"(?s)model/broken.*not valid YAML.*broken\.yaml.*line"
    ):
        with_my_conf(my_conf, "model=broken")


def test_a_group_without_a_choice_is_refused_with_its_options() -> None:
    message = refusal("model=null")

    for expected in ("model=null", "lenet", "mobilenet_v2", "resnet18", "vgg16"):
        assert expected in message


@pytest.mark.parametrize("group", ["model", "hardware", "phase", "dataset", "experiment"])
def test_an_unknown_option_is_refused_with_the_options_there_are(group: str) -> None:
    message = refusal(f"{group}=no_such")
    options = [path.stem for path in (CONF / group).glob("*.yaml")]

    for expected in (f"{group}/no_such", *options):
        assert expected in message


@pytest.mark.parametrize(
    "key",
    [
        "no_such",
        "repetitons",
        "phase.epoch",
        "idle.window",
        "dataset.size",
        "hardware.energy_sources.npu",
        "batch_size.sizes",
        "+no_such",  # Hydra says `+` to who mistypes a key
        "+phase.epoch",
        "+hardware.energy_sources.npu",
    ],
)
def test_an_unknown_key_is_refused_by_its_name(key: str) -> None:
    assert key.removeprefix("+").rpartition(".")[2] in refusal(f"{key}=1")


@pytest.mark.parametrize(
    "override",
    [
        "seed=one",
        "seed=1.5",
        "idle.window_s=long",
        "phase.epochs=1.5",
        "phase.kind=rest",
        "dataset.num_samples=all",
        "dataset.augment=maybe",
        "hardware.device=tpu",
        "hardware.strict=perhaps",
        "hardware.num_dimms=2.5",
        "hardware.energy_sources.gpu=rapl",
        "hardware.energy_sources.cpu=nvml",
        "batch_size.size=large",
        "model.kwargs=3",
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_its_key(override: str) -> None:
    assert override.partition("=")[0] in refusal(override)


def test_an_unknown_source_is_refused_with_the_sources_there_are() -> None:
    assert "[auto, rapl, tdp_model, none]" in refusal("hardware.energy_sources.cpu=nvml")


@pytest.mark.parametrize("override", ["phase.epochs=0", "seed=-1"])
def test_a_value_out_of_range_is_refused_on_the_command_line(override: str) -> None:
    assert override.partition("=")[0] in refusal(override)


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    """The default cell's settings, nested."""
    return config.to_dict(make_config())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("seed", 4294967296),  # 2**32 − 1 is the last
        ("idle.window_s", 0),
        ("idle.window_s", math.nan),
        ("idle.settle_s", -1),
        ("sampler.period_s", 0),
        ("sampler.period_s", 11),
        ("phase.epochs", 0),
        ("phase.min_active_s", -1),
        ("phase.warmup_batches", -1),
        ("phase.learning_rate", 0),
        ("phase.momentum", -0.1),
        ("phase.weight_decay", -1),
        ("dataset.num_samples", 0),
        ("dataset.image_size", 0),
        ("dataset.image_width", 0),
        ("dataset.num_channels", 0),
        ("dataset.replicate_test", 0),
        ("dataset.num_classes", 1),
        ("hardware.tdp_w.cpu", 0),
        ("hardware.tdp_w.gpu", -70),
        ("hardware.socket_share_fraction", 0),
        ("hardware.socket_share_fraction", 1.01),
        ("hardware.idle_floor_fraction", -0.1),
        ("hardware.idle_floor_fraction", 1),
        ("hardware.num_dimms", 0),
        ("hardware.dimm_voltage_v", 0),
        ("hardware.dimm_frequency_hz", 0),
        ("hardware.dimm_capacitance_f", 0),
        ("mlflow.experiment", " "),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(
    key: str, value: object, settings: dict[str, Any]
) -> None:
    changed = copy.deepcopy(settings)
    *groups, name = key.split(".")
    reduce(dict.__getitem__, groups, changed)[name] = value

    with pytest.raises(ConfigError, match=f"^{key} is "):
        config.from_dict(changed)


def test_a_size_out_of_range_below_the_group_is_refused_by_its_key() -> None:
    assert "batch_size is 0" in refusal("batch_size.size=0")


def test_a_number_for_a_value_of_no_group_stays_a_number() -> None:
    assert make_config("seed=32").seed == 32
