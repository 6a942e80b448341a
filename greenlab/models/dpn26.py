"""DPN26: a residual path refines the features that there are, a dense path adds new ones.

Chen, Li, Xiao, Jin, Yan, Feng, *Dual Path Networks* (2017). Widths, groups and dense growth are
DPN-92's; two blocks per stage stand for its 3, 4, 20 and 3, and a stage's dense path starts with
twice its growth, not three times. The CIFAR form opens with a 3×3 convolution of stride 1 in place
of a 7×7 one of stride 2 and a max-pool. Batch norm follows each convolution, ReLU the first two of
a block and its sum, where the original has both before each convolution.
"""

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation


class _Stage(NamedTuple):
    num_bottleneck: int
    num_residual: int
    num_dense: int
    stride: int


_STAGES = (
    _Stage(num_bottleneck=96, num_residual=256, num_dense=16, stride=1),
    _Stage(num_bottleneck=192, num_residual=512, num_dense=32, stride=2),
    _Stage(num_bottleneck=384, num_residual=1024, num_dense=24, stride=2),
    _Stage(num_bottleneck=768, num_residual=2048, num_dense=128, stride=2),
)
_BLOCKS_PER_STAGE = 2
_GROUPS = 32


def dpn26(num_classes: int = 10) -> nn.Module:
    """DPN26 for 3×32×32 images: 11,574,842 parameters with 10 classes."""
    blocks: list[nn.Module] = []
    num_in = 64
    for stage in _STAGES:
        for index in range(_BLOCKS_PER_STAGE):
            block = _DualPathBlock(num_in, stage, opens_stage=index == 0)
            blocks.append(block)
            num_in = block.num_out
    return nn.Sequential(
        OrderedDict(
            stem=Conv2dNormActivation(3, 64),
            blocks=nn.Sequential(*blocks),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(1),
            classifier=nn.Linear(num_in, num_classes),
        )
    )


class _DualPathBlock(nn.Module):
    """Adds to the first `num_residual` channels and appends `num_dense` new ones.

    The block that opens a stage projects its input to as many channels as it makes itself, so that
    the dense path starts with twice `num_dense`.
    """

    def __init__(self, num_in: int, stage: _Stage, *, opens_stage: bool) -> None:
        super().__init__()
        num_made = stage.num_residual + stage.num_dense
        stride = stage.stride if opens_stage else 1
        self.num_residual = stage.num_residual
        self.num_out = (num_made if opens_stage else num_in) + stage.num_dense
        self.make = nn.Sequential(
            Conv2dNormActivation(num_in, stage.num_bottleneck, kernel_size=1),
            Conv2dNormActivation(
                stage.num_bottleneck, stage.num_bottleneck, stride=stride, groups=_GROUPS
            ),
            Conv2dNormActivation(
                stage.num_bottleneck, num_made, kernel_size=1, activation_layer=None
            ),
        )
        self.shortcut: nn.Module = nn.Identity()
        if opens_stage:
            self.shortcut = Conv2dNormActivation(
                num_in, num_made, kernel_size=1, stride=stride, activation_layer=None
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        old, made = self.shortcut(x), self.make(x)
        split = self.num_residual
        paths = (old[:, :split] + made[:, :split], old[:, split:], made[:, split:])
        out: Tensor = self.relu(torch.cat(paths, dim=1))
        return out
