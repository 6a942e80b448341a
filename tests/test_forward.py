"""The networks compute what their CIFAR forms do: a second form of each gives the same logits.

Parameters and MACs don't see a missing ReLU, nor a shortcut taken on the wrong side of one. Each
function below is a network once more, written from its paper and its CIFAR form, not from
greenlab/models/. The two share the weights, which bring widths, kernel sizes and groups with them;
strides, paddings, numbers of blocks, activations, shortcuts and joins are said here anew. Layers
are taken in the order in which the network names them, so that each is used once and in its place.
"""

import pkgutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, linear, max_pool2d, relu, silu

Activation = Callable[[Tensor], Tensor]


class Layers:
    """A network's layers that have weights, each to be applied once, in order."""

    def __init__(self, network: nn.Module) -> None:
        kinds = nn.Conv2d | nn.BatchNorm2d | nn.Linear
        self.remaining = [layer for layer in network.modules() if isinstance(layer, kinds)]

    def take(self, kind: type[nn.Module]) -> nn.Module:
        layer = self.remaining.pop(0)
        assert isinstance(layer, kind), f"{kind.__name__} expected, {layer} is next"
        return layer

    def conv(self, x: Tensor, stride: int = 1, padding: int | None = None) -> Tensor:
        """`padding` keeps the image's size at stride 1 unless it is given."""
        layer = self.take(nn.Conv2d)
        channels_per_group, kernel_size = layer.weight.shape[1:3]
        padding = kernel_size // 2 if padding is None else padding
        groups = x.shape[1] // channels_per_group
        return conv2d(x, layer.weight, layer.bias, stride, padding, groups=groups)

    def norm(self, x: Tensor) -> Tensor:
        layer = self.take(nn.BatchNorm2d)
        return batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias)

    def conv_norm(self, x: Tensor, stride: int = 1) -> Tensor:
        return self.norm(self.conv(x, stride))

    def conv_norm_relu(self, x: Tensor, stride: int = 1) -> Tensor:
        return relu(self.conv_norm(x, stride))

    def linear(self, x: Tensor) -> Tensor:
        layer = self.take(nn.Linear)
        return linear(x, layer.weight, layer.bias)

    def classify(self, x: Tensor) -> Tensor:
        return self.linear(x.mean((2, 3)))

    def excitation(self, x: Tensor, activation: Activation) -> Tensor:
        """Squeeze-and-excitation: a weight between 0 and 1 for each channel of `x`."""
        squeezed = activation(self.conv(x.mean((2, 3), keepdim=True)))
        return torch.sigmoid(self.conv(squeezed))


def strides_of(num_blocks: int, stride: int) -> list[int]:
    """The first block of a stage halves the image or doesn't; the others keep its size."""
    return [stride] + [1] * (num_blocks - 1)


def lenet(layers: Layers, x: Tensor) -> Tensor:
    for _ in range(2):
        x = max_pool2d(relu(layers.conv(x, padding=0)), 2)
    x = x.flatten(1)
    for _ in range(2):
        x = relu(layers.linear(x))
    return layers.linear(x)


def googlenet(layers: Layers, x: Tensor) -> Tensor:
    def inception(x: Tensor) -> Tensor:
        one = layers.conv_norm_relu(x)
        three = layers.conv_norm_relu(layers.conv_norm_relu(x))
        five = layers.conv_norm_relu(layers.conv_norm_relu(layers.conv_norm_relu(x)))
        pooled = layers.conv_norm_relu(max_pool2d(x, 3, stride=1, padding=1))
        return torch.cat([one, three, five, pooled], dim=1)

    x = layers.conv_norm_relu(x)
    x = inception(inception(x))
    x = max_pool2d(x, 3, stride=2, padding=1)
    for _ in range(5):
        x = inception(x)
    x = max_pool2d(x, 3, stride=2, padding=1)
    return layers.classify(inception(inception(x)))


def mobilenet(layers: Layers, x: Tensor) -> Tensor:
    x = layers.conv_norm_relu(x)
    for stride in (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1):
        x = layers.conv_norm_relu(x, stride)  # each channel by itself
        x = layers.conv_norm_relu(x)  # each pixel by itself
    return layers.classify(x)


def mobilenet_v2(layers: Layers, x: Tensor) -> Tensor:
    def inverted_residual(x: Tensor, width: int, stride: int) -> Tensor:
        widened = layers.conv_norm_relu(x)
        narrowed = layers.conv_norm(layers.conv_norm_relu(widened, stride))
        if stride == 2:
            return narrowed
        return narrowed + (x if x.shape[1] == width else layers.conv_norm(x))

    x = layers.conv_norm_relu(x)
    widths, depths = (16, 24, 32, 64, 96, 160, 320), (1, 2, 3, 4, 3, 3, 1)
    for width, num_blocks, stride in zip(widths, depths, (1, 1, 2, 2, 1, 2, 1), strict=True):
        for block_stride in strides_of(num_blocks, stride):
            x = inverted_residual(x, width, block_stride)
    return layers.classify(layers.conv_norm_relu(x))


def efficientnet_b0(layers: Layers, x: Tensor) -> Tensor:
    def inverted_residual(x: Tensor, width: int, stride: int, widen: bool) -> Tensor:
        widened = silu(layers.conv_norm(x)) if widen else x
        filtered = silu(layers.conv_norm(widened, stride))
        narrowed = layers.conv_norm(filtered * layers.excitation(filtered, silu))
        return narrowed + x if stride == 1 and x.shape[1] == width else narrowed

    x = silu(layers.conv_norm(x))
    widths, depths = (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)
    for width, num_blocks, stride in zip(widths, depths, (1, 2, 2, 2, 1, 2, 1), strict=True):
        for block_stride in strides_of(num_blocks, stride):
            x = inverted_residual(x, width, block_stride, widen=width > 16)
    return layers.classify(x)


def pnasnet(layers: Layers, x: Tensor) -> Tensor:
    def cell(x: Tensor, stride: int) -> Tensor:
        left = layers.conv_norm(x, stride) + layers.conv_norm(x, stride)  # 7×7 and 3×3
        right = layers.conv_norm(x, stride)  # 5×5
        pooled = max_pool2d(x, 3, stride, padding=1)
        right = right + (layers.conv_norm(pooled) if stride == 2 else pooled)
        return layers.conv_norm_relu(torch.cat([relu(left), relu(right)], dim=1))

    x = layers.conv_norm_relu(x)
    for stride in [1] * 6 + [2] + [1] * 6 + [2] + [1] * 6:
        x = cell(x, stride)
    return layers.classify(x)


def preact_blocks(layers: Layers, x: Tensor, excite: bool) -> Tensor:
    """A projection sees the activated input; without one, the raw input passes by."""
    for stride in (1, 1, 2, 1, 2, 1, 2, 1):
        activated = relu(layers.norm(x))
        residual = relu(layers.norm(layers.conv(activated, stride)))
        residual = layers.conv(residual)
        if excite:
            residual = residual * layers.excitation(residual, relu)
        x = residual + (layers.conv(activated, stride) if stride == 2 else x)
    return x


def preact_resnet18(layers: Layers, x: Tensor) -> Tensor:
    return layers.classify(preact_blocks(layers, layers.conv(x), excite=False))


def senet18(layers: Layers, x: Tensor) -> Tensor:
    return layers.classify(preact_blocks(layers, layers.conv_norm_relu(x), excite=True))


def resnext29_2x64d(layers: Layers, x: Tensor) -> Tensor:
    x = layers.conv_norm_relu(x)
    for stage_stride in (1, 2, 2):
        for i, stride in enumerate(strides_of(3, stage_stride)):
            residual = layers.conv_norm_relu(layers.conv_norm_relu(x), stride)
            residual = layers.conv_norm(residual)
            x = relu(residual + (layers.conv_norm(x, stride) if i == 0 else x))
    return layers.classify(x)


def regnetx_200mf(layers: Layers, x: Tensor) -> Tensor:
    x = layers.conv_norm_relu(x)
    for num_blocks, stage_stride in ((1, 1), (1, 1), (4, 2), (7, 2)):
        for i, stride in enumerate(strides_of(num_blocks, stage_stride)):
            shortcut = layers.conv_norm(x, stride) if i == 0 else x
            residual = layers.conv_norm_relu(layers.conv_norm_relu(x), stride)
            x = relu(shortcut + layers.conv_norm(residual))
    return layers.classify(x)


def dpn26(layers: Layers, x: Tensor) -> Tensor:
    x = layers.conv_norm_relu(x)
    for num_residual, stage_stride in ((256, 1), (512, 2), (1024, 2), (2048, 2)):
        for i, stride in enumerate(strides_of(2, stage_stride)):
            made = layers.conv_norm_relu(layers.conv_norm_relu(x), stride)
            made = layers.conv_norm(made)
            kept = layers.conv_norm(x, stride) if i == 0 else x
            added = kept[:, :num_residual] + made[:, :num_residual]
            x = relu(torch.cat([added, kept[:, num_residual:], made[:, num_residual:]], dim=1))
    return layers.classify(x)


def simpledla(layers: Layers, x: Tensor) -> Tensor:
    def block(x: Tensor, projects: bool, stride: int) -> Tensor:
        residual = layers.conv_norm(layers.conv_norm_relu(x, stride))
        return relu(residual + (layers.conv_norm(x, stride) if projects else x))

    def tree(x: Tensor, height: int, projects: bool, stride: int) -> Tensor:
        if height == 0:
            return block(x, projects, stride)
        left = tree(x, height - 1, projects, stride)
        right = tree(left, height - 1, projects=False, stride=1)
        return layers.conv_norm_relu(torch.cat([left, right], dim=1))

    for _ in range(3):
        x = layers.conv_norm_relu(x)
    for height, stride in ((1, 1), (2, 2), (2, 2), (1, 2)):
        x = tree(x, height, projects=True, stride=stride)
    return layers.classify(x)


SECOND_FORMS = (
    dpn26,
    efficientnet_b0,
    googlenet,
    lenet,
    mobilenet,
    mobilenet_v2,
    pnasnet,
    preact_resnet18,
    regnetx_200mf,
    resnext29_2x64d,
    senet18,
    simpledla,
)


def build(name: str) -> nn.Module:
    """In evaluation mode and double precision, no two channels of a batch norm alike.

    Variances are about those of what the convolutions give with PyTorch's initial weights, so
    that the images still matter to the last layer.
    """
    torch.manual_seed(0)
    network = pkgutil.resolve_name(f"greenlab.models.{name}.{name}")().double().eval()
    generator = torch.Generator().manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.1, 0.3, generator=generator)
            layer.weight.data.uniform_(0.5, 1.5, generator=generator)
            layer.bias.data.normal_(0, 0.5, generator=generator)
    return network


@pytest.mark.parametrize("second_form", SECOND_FORMS)
@torch.no_grad()
def test_a_network_gives_the_logits_of_its_second_form(
    second_form: Callable[[Layers, Tensor], Tensor],
) -> None:
    network = build(second_form.__name__)
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=generator)
    layers = Layers(network)

    logits = second_form(layers, images)

    torch.testing.assert_close(network(images), logits, rtol=1e-9, atol=1e-9)
    assert not layers.remaining
