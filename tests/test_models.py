"""The networks are the paper's: as many parameters, buffers and MACs as their CIFAR forms have."""

import copy
import functools
import pkgutil
from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

MODEL_OPTIONS = sorted((Path(__file__).parent.parent / "conf" / "model").glob("*.yaml"))

# Parameters, bytes of buffers and MACs of one 3×32×32 image with 10 classes: torch's own counts
# of the CIFAR forms that the paper measures (its FlopCounterMode's FLOPs, halved).
REFERENCE = {
    "lenet": (62_006, 0, 651_720),
    "resnet18": (11_173_962, 38_560, 555_422_720),
    "mobilenet_v2": (2_296_922, 140_808, 91_154_944),
    "vgg16": (14_728_266, 33_896, 313_201_664),
}


def build(name: str, num_classes: int = 10) -> nn.Module:
    builder = pkgutil.resolve_name(f"greenlab.models.{name}.{name}")
    torch.manual_seed(0)
    return builder(num_classes=num_classes)


built = functools.cache(build)


def count_macs(model: nn.Module) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, 32, 32))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", REFERENCE)
def test_parameters_buffers_and_macs_are_those_of_the_cifar_form(name: str) -> None:
    model = built(name)
    counted = (
        sum(parameter.numel() for parameter in model.parameters()),
        sum(buffer.nbytes for buffer in model.buffers()),
        count_macs(model),
    )
    assert counted == REFERENCE[name]


# conv1 6·(3·5·5 + 1) = 456, conv2 16·(6·5·5 + 1) = 2,416, then 120·401 = 48,120, 84·121 = 10,164
# and 10·85 = 850: 62,006 together. MACs: 28²·6·75 = 352,800, 10²·16·150 = 240,000, 400·120 =
# 48,000, 120·84 = 10,080, 84·10 = 840: 651,720 together.
def test_lenet_has_the_layers_that_are_worked_out_by_hand() -> None:
    layers = [layer for layer in built("lenet") if list(layer.parameters())]
    sizes = [sum(parameter.numel() for parameter in layer.parameters()) for layer in layers]
    assert sizes == [456, 2_416, 48_120, 10_164, 850]
    assert count_macs(built("lenet")) == 352_800 + 240_000 + 48_000 + 10_080 + 840


# A stride or a pool too many is silent: the network still runs, at a fraction of the work.
def test_torchvision_untouched_does_a_fraction_of_the_work() -> None:
    untouched = count_macs(torchvision.models.resnet18(num_classes=10))
    assert untouched * 10 < count_macs(built("resnet18"))


@pytest.mark.parametrize("name", REFERENCE)
def test_gradients_reach_every_parameter(name: str) -> None:
    model = copy.deepcopy(built(name)).train()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    scores = model(images)
    assert scores.shape == (2, 10)
    nn.functional.cross_entropy(scores, torch.arange(2)).backward()
    unreached = [
        key
        for key, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert unreached == []


@pytest.mark.parametrize("name", REFERENCE)
def test_a_sample_is_judged_alone_in_evaluation(name: str) -> None:
    model = built(name).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


def test_lenet_takes_images_in_either_memory_layout() -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        plain = built("lenet")(images)
        strided = built("lenet")(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(plain, strided, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("option", MODEL_OPTIONS, ids=lambda path: path.stem)
def test_every_model_option_builds_a_network_of_as_many_classes_as_asked(option: Path) -> None:
    settings = yaml.safe_load(option.read_text())
    builder = pkgutil.resolve_name(settings["_target_"])
    model = builder(num_classes=7, **settings.get("kwargs", {})).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


@pytest.mark.parametrize("option", MODEL_OPTIONS, ids=lambda path: path.stem)
def test_every_model_option_opens_with_how_to_run_it(option: Path) -> None:
    first_line = option.read_text().splitlines()[0]
    assert first_line.startswith("#")
    assert f"python -m greenlab model={option.stem}" in first_line
