"""The networks are the paper's: as many parameters, buffers and MACs as their CIFAR forms have."""

import copy
import functools
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path

import by_hand
import pytest
import thop
import torch
import torchvision
import yaml
from conftest import ROOT, make_config
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from greenlab import phases
from greenlab.model_profile import count_macs_by_layer_type, profile_model
from greenlab.workload import build_workload, seed_everything

MODEL_OPTIONS = sorted((ROOT / "conf" / "model").glob("*.yaml"))

# Parameters, bytes of buffers and MACs of one 3×32×32 image with 10 classes: torch's own counts
# of the CIFAR forms that the paper measures (its FlopCounterMode's FLOPs, halved).
REFERENCE = {
    "densenet121": (6_956_298, 335_040, 888_350_720),
    "dpn26": (11_574_842, 143_784, 665_050_880),
    "googlenet": (6_166_250, 63_744, 1_521_756_160),
    "lenet": (62_006, 0, 651_720),
    "mobilenet_v2": (2_296_922, 140_808, 91_154_944),
    "resnet18": (11_173_962, 38_560, 555_422_720),
    "senet18": (11_260_354, 27_784, 555_509_760),
    "vgg16": (14_728_266, 33_896, 313_201_664),
}
# Of the others the parameters alone are known from elsewhere; by_hand.py adds the rest up.
PARAMETERS = {
    "efficientnet_b0": 3_598_598,
    "mobilenet": 3_217_226,
    "pnasnet": 451_626,
    "preact_resnet18": 11_171_146,
    "regnetx_200mf": 2_321_946,
    "resnext29_2x64d": 9_128_778,
    "shufflenet_v2": 1_263_854,
    "simpledla": 15_142_970,
}
SIXTEEN = sorted(REFERENCE.keys() | PARAMETERS.keys())
QUICK = {"lenet", "mobilenet", "resnet18", "shufflenet_v2", "efficientnet_b0"}
"""Of which a step takes a second or two on a core that has no bfloat16 of its own."""
SLOWLY = [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in SIXTEEN]
FROM_TORCHVISION = {
    "densenet121": torchvision.models.densenet121,
    "efficientnet_b0": torchvision.models.efficientnet_b0,
    "resnet18": torchvision.models.resnet18,
    "shufflenet_v2": torchvision.models.shufflenet_v2_x1_0,
}


def build(name: str, num_classes: int = 10, seed: int = 0) -> nn.Module:
    builder = pkgutil.resolve_name(f"greenlab.models.{name}.{name}")
    torch.manual_seed(seed)
    return builder(num_classes=num_classes)


built = functools.cache(build)


def images(number: int, seed: int = 1) -> Tensor:
    return torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def abstract(model: nn.Module) -> nn.Module:
    """A copy that has shapes without numbers: it runs and computes nothing."""
    return copy.deepcopy(model).to("meta").eval()


def count_macs(model: nn.Module) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        abstract(model)(torch.zeros(1, 3, 32, 32, device="meta"))
    return counter.get_total_flops() // 2


def count(model: nn.Module) -> tuple[int, int, int]:
    return (
        sum(parameter.numel() for parameter in model.parameters()),
        sum(buffer.nbytes for buffer in model.buffers()),
        count_macs(model),
    )


def test_the_options_are_the_papers_sixteen() -> None:
    assert [path.stem for path in MODEL_OPTIONS] == SIXTEEN
    assert len(SIXTEEN) == 16


@pytest.mark.parametrize("name", REFERENCE)
def test_parameters_buffers_and_macs_are_those_of_the_cifar_form(name: str) -> None:
    assert count(built(name)) == REFERENCE[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_buffers_and_macs_are_those_of_the_papers_tables(name: str) -> None:
    tally: by_hand.Tally = getattr(by_hand, name)()
    assert tally.parameters == PARAMETERS[name]
    assert count(built(name)) == (tally.parameters, tally.buffer_bytes, tally.macs)


# conv1 6·(3·5·5 + 1) = 456, conv2 16·(6·5·5 + 1) = 2,416, then 120·401 = 48,120, 84·121 = 10,164
# and 10·85 = 850: 62,006 together. MACs: 28²·6·75 = 352,800, 10²·16·150 = 240,000, 400·120 =
# 48,000, 120·84 = 10,080, 84·10 = 840: 651,720 together.
def test_lenet_has_the_layers_that_are_worked_out_by_hand() -> None:
    layers = [layer for layer in built("lenet") if list(layer.parameters())]
    sizes = [sum(parameter.numel() for parameter in layer.parameters()) for layer in layers]
    assert sizes == [456, 2_416, 48_120, 10_164, 850]
    assert count_macs(built("lenet")) == 352_800 + 240_000 + 48_000 + 10_080 + 840


# A stride or a pool too many is silent: the network still runs, at a fraction of the work. (Of the
# others, RegNetX-200MF and ResNeXt29 have no builder, and VGG16's differs in its classifier alone.)
@pytest.mark.parametrize("name", FROM_TORCHVISION)
def test_torchvision_untouched_does_a_fraction_of_the_work(name: str) -> None:
    with torch.device("meta"):
        untouched = FROM_TORCHVISION[name](num_classes=10)
    assert count_macs(untouched) * 3 < count_macs(built(name))


def pooled_and_normalised(model: nn.Module) -> dict[str, int]:
    """What thop adds to one sample's exact MACs, from the sizes that pass through the layers.

    By its rules: four for each number that is normalised, one for each output of an average pool,
    one more than it has inputs for each output of an adaptive one.
    """
    added: dict[str, int] = {}

    def add(layer: nn.Module, number: float) -> None:
        name = type(layer).__name__
        added[name] = added.get(name, 0) + int(number)

    def hook(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if isinstance(layer, nn.BatchNorm2d):
            add(layer, 4 * inputs[0].numel())
        elif isinstance(layer, nn.AvgPool2d):
            add(layer, output.numel())
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            add(layer, inputs[0].numel() + output.numel())

    hooked = abstract(model)
    for layer in hooked.modules():
        layer.register_forward_hook(hook)
    hooked(torch.zeros(1, 3, 32, 32, device="meta"))
    return added


@pytest.mark.parametrize("name", SLOWLY)
def test_thop_adds_batch_norm_and_pooling_and_nothing_else(name: str) -> None:
    network, sample = abstract(built(name)), torch.zeros(1, 3, 32, 32)
    profile = profile_model(network, sample)
    layers = count_macs_by_layer_type(network, sample)
    added = {
        kind: layer.macs - layer.macs_exact
        for kind, layer in layers.items()
        if layer.macs != layer.macs_exact
    }
    assert profile.uncounted_layers == ()
    assert added == pooled_and_normalised(built(name))
    assert profile.macs == profile.macs_exact + sum(added.values())
    assert sum(layer.macs_exact for layer in layers.values()) == profile.macs_exact
    assert profile.macs_exact == count_macs(built(name))
    assert profile.macs == round(
        thop.profile(copy.deepcopy(built(name)), (sample,), verbose=False)[0]
    )
    assert 0 <= profile.macs / profile.macs_exact - 1 < 0.09  # nothing big is counted twice


@pytest.mark.slow
def test_the_table_in_the_documentation_holds_what_is_counted() -> None:
    rows = re.findall(r"^\| ([a-z0-9_]+) \| (.*) \|$", (ROOT / "docs/models.md").read_text(), re.M)
    assert [name for name, _ in rows if name != "model"] == SIXTEEN
    for name, cells in rows[1:]:
        shown = [float(cell.strip(" %").replace(",", "")) for cell in cells.split("|")]
        parameters, buffer_bytes, macs_exact = count(built(name))
        added = pooled_and_normalised(built(name))
        norm = added.get("BatchNorm2d", 0)
        pooling = sum(added.values()) - norm
        linear = sum(
            layer.weight.numel() for layer in built(name).modules() if isinstance(layer, nn.Linear)
        )
        by_thop = macs_exact + norm + pooling
        assert shown[:8] == [
            parameters, buffer_bytes, macs_exact - linear, linear,
            macs_exact, norm, pooling, by_thop,
        ]  # fmt: skip
        assert shown[8] == pytest.approx(100 * (by_thop / macs_exact - 1), abs=0.0051)
        assert shown[9] == pytest.approx(by_thop / parameters, abs=0.0051)


@pytest.mark.parametrize("name", PARAMETERS)
def test_batch_norm_by_thop_is_four_times_what_the_tables_normalise(name: str) -> None:
    tally: by_hand.Tally = getattr(by_hand, name)()
    assert pooled_and_normalised(built(name))["BatchNorm2d"] == 4 * tally.norm_elements


@pytest.mark.parametrize("name", SIXTEEN)
def test_a_sample_is_judged_alone_in_evaluation(name: str) -> None:
    model = built(name).eval()
    batch = images(2, seed=2)
    with torch.no_grad():
        together = model(batch)
        alone = torch.cat([model(image[None]) for image in batch])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SIXTEEN)
def test_the_seed_decides_the_weights_and_a_state_dict_carries_them(
    name: str, tmp_path: Path
) -> None:
    first, again, other = built(name), build(name), build(name, seed=1)
    weights = first.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in again.state_dict().items())
    assert any(not torch.equal(weights[key], value) for key, value in other.state_dict().items())
    torch.save(weights, tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt"))
    with torch.no_grad():
        assert torch.equal(first.eval()(images(1)), other.eval()(images(1)))


# Learning rate and epochs over 720 digits in batches of 16.
LEARNING = dict.fromkeys(SIXTEEN, ("0.01", 2)) | {
    "lenet": ("0.05", 2),
    "regnetx_200mf": ("0.01", 3),
    "resnext29_2x64d": ("0.003", 3),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SIXTEEN)
def test_it_learns_the_digits(name: str, record_property: Callable[[str, object], None]) -> None:
    learning_rate, epochs = LEARNING[name]
    running = build_workload(
        make_config(
            f"model={name}",
            "batch_size=16",
            "dataset.num_samples=720",
            f"phase.epochs={epochs}",
            f"phase.learning_rate={learning_rate}",
        ),
        torch.device("cpu"),
    )
    for _ in range(epochs):
        phases.train_one_epoch(running)
    accuracy = phases.evaluate(running).accuracy
    record_property("accuracy", accuracy)
    assert accuracy > 0.5  # chance is 0.1


def test_dropout_and_stochastic_depth_follow_the_seed() -> None:
    def step(seed: int) -> Tensor:
        seed_everything(seed)
        with torch.no_grad():
            return copy.deepcopy(built("efficientnet_b0")).train()(images(4))

    assert torch.equal(step(0), step(0))
    assert not torch.equal(step(0), step(1))


def step_in_channels_last(name: str, device: str) -> None:
    """Scores in channels_last and under autocast agree with plain ones; a step of either trains."""
    model = copy.deepcopy(built(name)).to(device)
    batch, labels = images(4).to(device), torch.arange(4, device=device)
    with torch.no_grad():
        plain = model.eval()(batch)
        model = model.to(memory_format=torch.channels_last)
        batch = batch.to(memory_format=torch.channels_last)
        strided = model(batch)
        with torch.autocast(device, dtype=torch.bfloat16):
            short = model(batch)
    assert plain.shape == (4, 10)
    torch.testing.assert_close(plain, strided, rtol=1e-2, atol=1e-3)
    assert short.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits of a number: after some twenty layers the scores agree within a tenth.
    assert (short.float() - plain).norm() < 0.1 * plain.norm()
    seed_everything(0)  # dropout
    for bfloat16 in (False, True):
        model.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bfloat16):
            loss = nn.functional.cross_entropy(model.train()(batch), labels)
        loss.backward()
        gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
        assert [key for key, one in gradients.items() if one is None or not one.any()] == []
        assert all(one.isfinite().all() for one in gradients.values() if one is not None)


@pytest.mark.parametrize("name", SLOWLY)
def test_gradients_reach_every_parameter_in_fp32_and_bfloat16(name: str) -> None:
    step_in_channels_last(name, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("name", SIXTEEN)
def test_gradients_reach_every_parameter_in_fp32_and_bfloat16_on_the_gpu(name: str) -> None:
    step_in_channels_last(name, "cuda")


@pytest.mark.parametrize("option", MODEL_OPTIONS, ids=lambda path: path.stem)
def test_every_model_option_builds_a_network_of_as_many_classes_as_asked(option: Path) -> None:
    settings = yaml.safe_load(option.read_text())
    builder = pkgutil.resolve_name(settings["_target_"])
    with torch.device("meta"), torch.no_grad():
        model = builder(num_classes=7, **settings.get("kwargs", {})).eval()
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


@pytest.mark.parametrize("option", MODEL_OPTIONS, ids=lambda path: path.stem)
def test_every_model_option_opens_with_how_to_run_it(option: Path) -> None:
    first_line = option.read_text().splitlines()[0]
    assert first_line.startswith("#")
    assert f"python -m greenlab model={option.stem}" in first_line


@pytest.mark.parametrize("name", SIXTEEN)
def test_every_builder_says_in_its_header_where_it_is_from(name: str) -> None:
    header = pkgutil.resolve_name(f"greenlab.models.{name}").__doc__ or ""
    idea, _, rest = header.partition("\n\n")
    rest = " ".join(rest.split())
    assert idea.endswith(".")
    assert "*" in rest  # the paper's title
    assert any(f"({year})" in rest for year in range(1998, 2021))
    assert "CIFAR form" in rest
