"""MobileNetV2: blocks that widen, filter each channel by itself, and narrow again.

Sandler, Howard, Zhu, Zhmoginov, Chen, *MobileNetV2: Inverted Residuals and Linear Bottlenecks*
(2018). The CIFAR form, which PyTorch studies of CIFAR-10 commonly share, departs from it in five
ways: the stem and the second stage keep the image's size (stride 1); the first block has its
widening convolution although it widens by 1; a block of stride 1 that changes the number of
channels has a shortcut too, a 1×1 convolution with batch norm; ReLU stands for ReLU6; there is no
dropout. The last feature map is 4×4.
"""

from collections import OrderedDict
from typing import NamedTuple

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation


class _Stage(NamedTuple):
    widening: int
    num_out: int
    num_blocks: int
    stride: int


_STAGES = (
    _Stage(widening=1, num_out=16, num_blocks=1, stride=1),
    _Stage(widening=6, num_out=24, num_blocks=2, stride=1),  # stride 2 in the original
    _Stage(widening=6, num_out=32, num_blocks=3, stride=2),
    _Stage(widening=6, num_out=64, num_blocks=4, stride=2),
    _Stage(widening=6, num_out=96, num_blocks=3, stride=1),
    _Stage(widening=6, num_out=160, num_blocks=3, stride=2),
    _Stage(widening=6, num_out=320, num_blocks=1, stride=1),
)


def mobilenet_v2(num_classes: int = 10) -> nn.Module:
    """MobileNetV2 for 3×32×32 images: 2,296,922 parameters with 10 classes."""
    blocks: list[nn.Module] = []
    num_in = 32
    for stage in _STAGES:
        for index in range(stage.num_blocks):
            stride = stage.stride if index == 0 else 1
            blocks.append(_InvertedResidual(num_in, stage.num_out, stage.widening, stride))
            num_in = stage.num_out
    return nn.Sequential(
        OrderedDict(
            stem=Conv2dNormActivation(3, 32),
            blocks=nn.Sequential(*blocks),
            head=Conv2dNormActivation(320, 1280, kernel_size=1),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(1),
            classifier=nn.Linear(1280, num_classes),
        )
    )


class _InvertedResidual(nn.Module):
    def __init__(self, num_in: int, num_out: int, widening: int, stride: int) -> None:
        super().__init__()
        num_wide = num_in * widening
        self.residual = nn.Sequential(
            Conv2dNormActivation(num_in, num_wide, kernel_size=1),
            Conv2dNormActivation(num_wide, num_wide, stride=stride, groups=num_wide),
            Conv2dNormActivation(num_wide, num_out, kernel_size=1, activation_layer=None),
        )
        self.shortcut: nn.Module | None = None
        if stride == 1 and num_in == num_out:
            self.shortcut = nn.Identity()
        elif stride == 1:
            self.shortcut = Conv2dNormActivation(
                num_in, num_out, kernel_size=1, activation_layer=None
            )

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.residual(x)
        return residual if self.shortcut is None else residual + self.shortcut(x)
