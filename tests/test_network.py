"""Networks of one's own: what their builders are given, what is frozen, what is refused and how."""

import sys
from pathlib import Path

import pytest
import torch
from conftest import make_config
from torch import Tensor, nn

from greenlab.config import Model
from greenlab.errors import ConfigError, GreenlabError, ModelError
from greenlab.network import (
    build_model,
    check_output,
    check_training,
    contained,
    find_input_shape,
    freeze,
)

CPU = torch.device("cpu")
LENET = "greenlab.models.lenet.lenet"


def without_num_classes() -> nn.Module:
    return nn.Linear(4, 3)


def with_other_arguments(width: int, **options: int) -> nn.Module:
    return nn.Linear(width, options["num_classes"])


class OneSize(nn.Module):
    """Takes one shape alone, as a transformer with position embeddings does."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(channels, size, size))
        self.classify = nn.Linear(channels * size * size, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify((x + self.position).flatten(1))


@pytest.mark.parametrize(
    ("target", "kwargs", "problem"),
    [
        ("nowhere.to_be_found", {}, "cannot be imported: ModuleNotFoundError"),
        ("greenlab.models.lenet.no_such", {}, "cannot be imported"),
        (LENET, {"depth": 3}, "fails when it is called with .*'depth': 3.*model.kwargs"),
        ("builtins.dict", {}, "returned a dict"),
        ("greenlab.models", {}, "is a module; name the function or class in it"),
    ],
)
def test_a_builder_that_fails_is_refused_by_name(
    target: str, kwargs: dict[str, object], problem: str
) -> None:
    with pytest.raises(GreenlabError, match=problem) as refusal:
        build_model(Model(_target_=target, kwargs=kwargs), num_classes=10)
    assert f"model._target_={target}" in str(refusal.value)


def test_a_file_that_is_no_python_is_refused_by_name_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_written.py").write_text("import torch\ndef build(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"SyntaxError.*half_written\.py, line 2"):
        build_model(Model(_target_="half_written.build"), num_classes=10)


def test_num_classes_is_given_to_the_builders_that_take_it() -> None:
    here = sys.modules[__name__].__name__
    assert build_model(Model(_target_=f"{here}.without_num_classes"), 5).out_features == 3
    wide = Model(_target_=f"{here}.with_other_arguments", kwargs={"width": 7})
    built = build_model(wide, 5)
    assert (built.in_features, built.out_features) == (7, 5)


# LeNet: conv1 6·(3·25 + 1) = 456 parameters, conv2 2,416; biases of the five layers 6, 16, 120, 84
# and 10 are 236.
@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        (["conv1"], 456),
        (["conv*"], 456 + 2_416),
        (["conv1", "conv1.weight"], 456),
        (["*.bias"], 236),
        (["conv1.*", "*.bias"], 456 + 236 - 6),
        ([], 0),
        (["*"], 62_006),
    ],
)
def test_patterns_freeze_the_layers_and_parameters_that_they_name(
    patterns: list[str], frozen: int
) -> None:
    lenet = build_model(Model(_target_=LENET, freeze=patterns), 10)
    found = sum(p.numel() for p in lenet.parameters() if not p.requires_grad)
    assert found == frozen


def test_a_pattern_names_layers_inside_others() -> None:
    resnet = build_model(
        Model(_target_="greenlab.models.resnet18.resnet18", freeze=["layer1.0", "layer2.*.bn1"]), 10
    )
    frozen = {name for name, p in resnet.named_parameters() if not p.requires_grad}
    # layer1.0: two convolutions of 64·64·9 and two batch norms of 128; bn1 in layer2 is twice 256.
    assert sum(resnet.get_parameter(name).numel() for name in frozen) == 2 * 36_864 + 256 + 512
    assert all(name.startswith(("layer1.0.", "layer2.")) for name in frozen)


def test_a_tied_parameter_is_frozen_under_any_of_its_names() -> None:
    tied = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    tied[1].weight = tied[0].weight
    freeze(tied, ["1"])
    assert not tied[0].weight.requires_grad


def test_a_pattern_that_names_nothing_is_refused_with_what_there_is() -> None:
    with pytest.raises(ModelError, match=r"model\.freeze: conv9 names no layer") as refusal:
        build_model(Model(_target_=LENET, freeze=["conv1", "conv9"]), 10)
    assert "conv1, conv2, fc1, fc2, fc3" in str(refusal.value)


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (1, 3, 8, 8), (1, 3, 40, 40)])
def test_a_shape_that_the_model_does_not_take_is_refused_with_one_that_it_takes(
    shape: tuple[int, ...],
) -> None:
    settings = make_config()
    lenet = build_model(settings.model, num_classes=10)
    with pytest.raises(ModelError) as refusal:
        check_output(lenet, torch.zeros(shape), settings)
    message = str(refusal.value)
    assert str(shape) in message
    assert f"model._target_={LENET}" in message
    assert (
        "It takes (1, 3, 32, 32): dataset=synthetic dataset.num_channels=3 dataset.image_size=32"
        in message
    )


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (OneSize(3, 224), (3, 224, 224)),
        (OneSize(1, 28), (1, 28, 28)),
        (OneSize(3, 30), None),
    ],
)
def test_the_shape_that_fits_is_found_among_common_ones(
    model: nn.Module, shape: tuple[int, int, int] | None
) -> None:
    assert find_input_shape(model, 10, CPU) == shape


def test_where_no_common_shape_fits_the_refusal_says_so() -> None:
    with pytest.raises(ModelError, match=r"28 to 384 pixels .*dataset\.image_width"):
        check_output(OneSize(3, 30), torch.zeros(1, 3, 32, 32), make_config())


def test_a_width_of_its_own_is_put_back_by_the_remedy() -> None:
    settings = make_config("dataset=synthetic", "dataset.image_width=40")
    with pytest.raises(ModelError, match=r"dataset\.image_size=32 dataset\.image_width=null"):
        check_output(build_model(settings.model, 10), torch.zeros(1, 3, 32, 40), settings)


class Folding(nn.Module):
    """Takes any shape, and silently makes more samples of a large one."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 3 * 64 * 64)[:, :10] * 1.0


def test_a_shape_that_gives_other_scores_does_not_fit() -> None:
    assert find_input_shape(Folding(), 10, CPU) == (3, 64, 64)


def test_a_model_of_another_number_type_is_not_told_the_shape_that_it_refused() -> None:
    settings = make_config()
    with pytest.raises(ModelError, match=r"(?s)fails on .*(dtype|type).*square images of 28"):
        check_output(build_model(settings.model, 10).double(), torch.zeros(1, 3, 32, 32), settings)


class Auxiliary(nn.Linear):
    """Gives a second output while it trains, as Inception does."""

    def forward(self, x: Tensor) -> object:
        scores = super().forward(x.flatten(1))
        return (scores, scores) if self.training else scores


def test_a_model_with_other_outputs_in_training_is_refused() -> None:
    settings, sample = make_config(), torch.zeros(1, 3, 32, 32)
    model = Auxiliary(3 * 32 * 32, 10)
    check_output(model, sample, settings)
    with pytest.raises(ModelError, match=r"in training, gives a tuple .*\(2, 10\).*model\.kwargs"):
        check_training(model, sample, settings)


def test_what_a_builder_changes_for_all_of_torch_is_put_back() -> None:
    with contained():
        torch.set_default_dtype(torch.float64)
    assert torch.zeros(1).dtype == torch.float32


@pytest.mark.parametrize("names", ["conv1", ["conv1"], ["conv1", 3]])
def test_frozen_layers_are_a_name_or_a_list_of_names(names: object) -> None:
    wanted = [str(name) for name in (names if isinstance(names, list) else [names])]
    assert Model(_target_=LENET, freeze=names).freeze == wanted


@pytest.mark.parametrize("names", ["[1.10]", "[null]", "[{a: 1}]", "true"])
def test_a_name_that_yaml_reads_as_something_else_is_refused(names: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.freeze is .*in quotes"):
        make_config(f"model.freeze={names}")
