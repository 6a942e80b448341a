"""SimpleDLA: trees join the outputs of early and late blocks, instead of passing on the last alone.

Yu, Wang, Shelhamer, Darrell, *Deep Layer Aggregation* (2017). This is the plain tree: a root joins
its two branches and nothing else, where the original's roots also take in every branch below them
and the input of the stage. The CIFAR form opens with a 3×3 convolution in place of a 7×7 one and
halves the image three times, not five, so that its last feature map is 4×4.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation


def simpledla(num_classes: int = 10) -> nn.Module:
    """SimpleDLA for 3×32×32 images: 15,142,970 parameters with 10 classes."""
    return nn.Sequential(
        OrderedDict(
            stem=Conv2dNormActivation(3, 16),
            stage1=Conv2dNormActivation(16, 16),
            stage2=Conv2dNormActivation(16, 32),
            stage3=_Tree(32, 64, depth=1, stride=1),
            stage4=_Tree(64, 128, depth=2, stride=2),
            stage5=_Tree(128, 256, depth=2, stride=2),
            stage6=_Tree(256, 512, depth=1, stride=2),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(1),
            classifier=nn.Linear(512, num_classes),
        )
    )


class _Tree(nn.Module):
    """A binary tree of blocks; the right branch goes on from the left one, the root joins both."""

    def __init__(self, num_in: int, num_out: int, *, depth: int, stride: int) -> None:
        super().__init__()
        self.left: nn.Module
        self.right: nn.Module
        if depth == 1:
            self.left = _ResidualBlock(num_in, num_out, stride)
            self.right = _ResidualBlock(num_out, num_out, stride=1)
        else:
            self.left = _Tree(num_in, num_out, depth=depth - 1, stride=stride)
            self.right = _Tree(num_out, num_out, depth=depth - 1, stride=1)
        self.root = Conv2dNormActivation(2 * num_out, num_out, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        left = self.left(x)
        joined: Tensor = self.root(torch.cat([left, self.right(left)], dim=1))
        return joined


class _ResidualBlock(nn.Module):
    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            Conv2dNormActivation(num_in, num_out, stride=stride),
            Conv2dNormActivation(num_out, num_out, activation_layer=None),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or num_in != num_out:
            self.shortcut = Conv2dNormActivation(
                num_in, num_out, kernel_size=1, stride=stride, activation_layer=None
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.residual(x) + self.shortcut(x))
        return out
