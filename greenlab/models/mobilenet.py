"""MobileNet: filters each channel by itself, then mixes channels pixel by pixel.

Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam, *MobileNets: Efficient Convolutional
Neural Networks for Mobile Vision Applications* (2017). The CIFAR form opens with a convolution of
stride 1 in place of 2; strides and widths are the original's otherwise, so that its last feature
map is 2×2.
"""

from collections import OrderedDict
from typing import NamedTuple

from torch import nn
from torchvision.ops import Conv2dNormActivation


class _Layer(NamedTuple):
    num_out: int
    stride: int


_LAYERS = (
    _Layer(64, stride=1),
    _Layer(128, stride=2),
    _Layer(128, stride=1),
    _Layer(256, stride=2),
    _Layer(256, stride=1),
    _Layer(512, stride=2),
    *(5 * [_Layer(512, stride=1)]),
    _Layer(1024, stride=2),
    _Layer(1024, stride=1),
)


def mobilenet(num_classes: int = 10) -> nn.Module:
    """MobileNet for 3×32×32 images: 3,217,226 parameters with 10 classes."""
    layers: list[nn.Module] = []
    num_in = 32
    for layer in _LAYERS:
        layers.append(_depthwise_separable(num_in, layer))
        num_in = layer.num_out
    return nn.Sequential(
        OrderedDict(
            stem=Conv2dNormActivation(3, 32),
            layers=nn.Sequential(*layers),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(1),
            classifier=nn.Linear(num_in, num_classes),
        )
    )


def _depthwise_separable(num_in: int, layer: _Layer) -> nn.Module:
    return nn.Sequential(
        Conv2dNormActivation(num_in, num_in, stride=layer.stride, groups=num_in),
        Conv2dNormActivation(num_in, layer.num_out, kernel_size=1),
    )
