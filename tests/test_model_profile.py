"""Profiles are held against counts worked out by hand."""

import logging
import math
import pkgutil

import pytest
import torch
from torch import Tensor, nn

from greenlab.errors import ModelError
from greenlab.model_profile import LayerMacs, count_macs_by_layer_type, profile_model

IMAGE = torch.zeros(1, 3, 8, 8)


def two_layers() -> nn.Module:
    # Convolution: 4·3·3·3 weights + 4 biases = 112; linear: 256·5 + 5 = 1,285. On 3×8×8, MACs are
    # 4·64·27 = 6,912 and 256·5 = 1,280.
    return nn.Sequential(
        nn.Conv2d(3, 4, kernel_size=3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)
    )


class Scale(nn.Module):
    """A layer that thop cannot know: a matrix product of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def test_two_layers_cost_what_is_worked_out_by_hand() -> None:
    profile = profile_model(two_layers(), IMAGE)
    assert profile.parameters == profile.trainable_parameters == 112 + 1_285
    assert profile.parameter_bytes == 4 * (112 + 1_285)
    assert profile.buffer_bytes == 0
    assert profile.macs == profile.macs_exact == 6_912 + 1_280
    assert profile.size_bytes == profile.parameter_bytes
    assert profile.macs_per_parameter == pytest.approx(8_192 / 1_397)
    assert profile.uncounted_layers == ()


def test_a_grouped_convolution_costs_its_groups_alone() -> None:
    # Each of 6 outputs sees 1 of 3 inputs: 6·64·9 = 3,456.
    profile = profile_model(nn.Conv2d(3, 6, kernel_size=3, padding=1, groups=3), IMAGE)
    assert profile.macs == profile.macs_exact == 3_456


def test_thop_adds_batch_norm_which_the_exact_count_leaves_out() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, kernel_size=1, bias=False), nn.BatchNorm2d(4))
    profile = profile_model(model, IMAGE)
    assert profile.macs_exact == 4 * 64 * 3
    assert profile.macs == 4 * 64 * 3 + 4 * (4 * 64)  # thop: 4 for each element
    assert profile.buffer_bytes == 4 * 4 + 4 * 4 + 8  # mean, variance, and how many batches


# LeNet on 3×32×32, values that each layer returns: conv1 6×28×28 = 4,704 and relu1 as many, pool1
# 6×14×14 = 1,176; conv2 16×10×10 = 1,600 and relu2 as many, pool2 16×5×5 = 400; flatten 400; fc1
# 120, relu3 120, fc2 84, relu4 84, fc3 10. Together 15,002, of four bytes.
def test_lenets_activations_are_worked_out_layer_by_layer() -> None:
    lenet = pkgutil.resolve_name("greenlab.models.lenet.lenet")()
    profile = profile_model(lenet, torch.zeros(1, 3, 32, 32))
    assert profile.activation_bytes == 4 * 15_002


class Twice(nn.Module):
    """One layer, called twice, and a sum that is no module's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.layer(self.layer(x))


# 3×8×8 values of 8 bytes, three times; the sum, and the module around the layer, count nothing.
def test_activations_are_those_of_leaf_modules_at_every_call() -> None:
    profile = profile_model(Twice().double(), IMAGE.double())
    assert profile.activation_bytes == 3 * (8 * 3 * 8 * 8)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        return {"both": (x, x[:, :1])}


def test_activations_of_a_layer_that_returns_several_tensors_are_added_up() -> None:
    assert profile_model(Pair(), IMAGE).activation_bytes == 4 * (3 * 64 + 1 * 64)


# 555,422,720 of convolutions and the linear layer. Batch norm: 5 of 64×32×32, 5 of 128×16×16, 5 of
# 256×8×8 and 5 of 512×4×4 are 614,400 elements, four each: 2,457,600. Average pool of 512 channels
# of 4×4: 512·(16 + 1) = 8,704.
def test_resnet18_by_thop_is_worked_out_by_hand() -> None:
    resnet18 = pkgutil.resolve_name("greenlab.models.resnet18.resnet18")()
    profile = profile_model(resnet18, torch.zeros(1, 3, 32, 32))
    assert profile.macs == 555_422_720 + 2_457_600 + 8_704
    assert profile.macs_exact == 555_422_720
    assert profile.buffer_bytes == 38_560
    assert profile.size_bytes == 4 * 11_173_962 + 38_560
    assert profile.macs_per_parameter == pytest.approx(557_889_024 / 11_173_962)


def test_frozen_parameters_are_not_trainable() -> None:
    model = two_layers()
    for parameter in model[3].parameters():
        parameter.requires_grad = False
    profile = profile_model(model, IMAGE)
    assert (profile.parameters, profile.trainable_parameters) == (1_397, 112)
    assert profile.macs_per_parameter == pytest.approx(8_192 / 112)


def test_bytes_follow_the_type_of_the_parameters() -> None:
    profile = profile_model(two_layers().double(), IMAGE.double())
    assert profile.parameter_bytes == 8 * 1_397


def test_a_layer_without_a_rule_is_named(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, kernel_size=1), Scale(), nn.GroupNorm(2, 4))
    with caplog.at_level(logging.WARNING, logger="greenlab.model_profile"):
        profile = profile_model(model, IMAGE)
    assert profile.uncounted_layers == ("GroupNorm", "Scale")
    assert "GroupNorm, Scale" in caplog.text
    assert profile.macs == 4 * 64 * 3
    assert profile.macs_exact == 4 * 64 * 3 + 4 * 8 * (8 * 8)  # 4·8 rows by an 8×8 matrix


def test_layers_that_compute_nothing_are_not_named(caplog: pytest.LogCaptureFixture) -> None:
    free = [nn.Identity(), nn.Dropout(), nn.Dropout2d(), nn.ReLU(), nn.SiLU(), nn.Flatten()]
    with caplog.at_level(logging.WARNING, logger="greenlab.model_profile"):
        profile = profile_model(nn.Sequential(two_layers()[0], nn.Sequential(*free)), IMAGE)
    assert profile.uncounted_layers == ()
    assert caplog.text == ""


# 3×8×8 by 1×1 filters to 4×8×8: 768. Batch norm of 256 numbers, 4 each: 1,024. Pooling 64 pixels to
# one, with one division more, for each of 4: 260. Linear 4·5 = 20. Scale is 4·8 rows by 8×8: 2,048.
def test_macs_are_told_apart_by_layer_type() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, kernel_size=1),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.ReLU(), Scale()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )
    assert count_macs_by_layer_type(model, IMAGE) == {
        "AdaptiveAvgPool2d": LayerMacs(macs=260, macs_exact=0),
        "BatchNorm2d": LayerMacs(macs=1_024, macs_exact=0),
        "Conv2d": LayerMacs(macs=768, macs_exact=768),
        "Linear": LayerMacs(macs=20, macs_exact=20),
        "Scale": LayerMacs(macs=0, macs_exact=2_048),
    }


def test_a_model_that_is_one_layer_is_its_own_type() -> None:
    one = nn.Conv2d(3, 4, kernel_size=1)
    assert count_macs_by_layer_type(one, IMAGE) == {"Conv2d": LayerMacs(macs=768, macs_exact=768)}


# 64 tokens of 4 features: projections in 64·4·12 and out 64·4·4; scores and their use 2·64·64·4.
# In evaluation without gradients torch runs attention as one operation that no counter sees.
def test_attention_is_counted_exactly_and_named() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, num_heads=2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2).transpose(1, 2)
            return self.attention(tokens, tokens, tokens, need_weights=False)[0]

    profile = profile_model(Attention(), torch.zeros(1, 4, 8, 8))
    assert profile.macs_exact == 64 * 4 * 12 + 64 * 4 * 4 + 2 * 64 * 64 * 4
    assert "MultiheadAttention" in profile.uncounted_layers


def test_the_model_is_left_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(two_layers()[0], nn.BatchNorm2d(4), nn.Identity()).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    profile_model(model, torch.ones(1, 3, 8, 8))
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert all(module.training for module in model.modules())
    assert all(not module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert capsys.readouterr().out == ""


# Both branches run the one convolution of 3·4 weights on 8×8: 2·768.
def test_a_layer_that_two_others_share_counts_once_for_each_call() -> None:
    shared = nn.Conv2d(3, 4, kernel_size=1)

    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Sequential(shared), nn.Sequential(shared)

        def forward(self, x: Tensor) -> Tensor:
            return self.left(x) + self.right(x)

    profile = profile_model(Siamese(), IMAGE)
    assert profile.parameters == 3 * 4 + 4
    assert profile.macs == profile.macs_exact == 2 * 768


def test_a_layer_called_past_the_one_around_it_keeps_its_own_macs() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(3, 4, kernel_size=1), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self.inner[1](self.inner[0](x))

    layers = count_macs_by_layer_type(Outer(), IMAGE)
    assert layers == {"Conv2d": LayerMacs(macs=768, macs_exact=768)}


def test_a_model_without_parameters_has_no_macs_per_parameter() -> None:
    profile = profile_model(nn.Flatten(), IMAGE)
    assert (profile.parameters, profile.macs) == (0, 0)
    assert math.isnan(profile.macs_per_parameter)


def test_a_model_that_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ModelError, match="of Linear cannot be counted"):
        profile_model(nn.Linear(5, 5), IMAGE)
