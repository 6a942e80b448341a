"""GoogLeNet: each module looks at several scales at once and stacks what they see.

Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke, Rabinovich, *Going Deeper with
Convolutions* (2014). The CIFAR form opens with one 3×3 convolution to 192 channels in place of
three convolutions and two max-pools, pools twice on its way to 8×8, and has no auxiliary
classifiers, no local response normalisation and no dropout. Batch norm, younger than the original,
follows each convolution, which keeps its bias; two 3×3 convolutions stand for each 5×5 one, as in
its successors.
"""

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation


class _Widths(NamedTuple):
    """Channels of a module's branches, named as in the columns of the paper's Table 1."""

    one: int
    three_reduce: int
    three: int
    five_reduce: int
    five: int
    pool: int

    @property
    def num_out(self) -> int:
        return self.one + self.three + self.five + self.pool


_INCEPTIONS = (
    _Widths(one=64, three_reduce=96, three=128, five_reduce=16, five=32, pool=32),
    _Widths(one=128, three_reduce=128, three=192, five_reduce=32, five=96, pool=64),
    None,  # a max-pool, which halves the image
    _Widths(one=192, three_reduce=96, three=208, five_reduce=16, five=48, pool=64),
    _Widths(one=160, three_reduce=112, three=224, five_reduce=24, five=64, pool=64),
    _Widths(one=128, three_reduce=128, three=256, five_reduce=24, five=64, pool=64),
    _Widths(one=112, three_reduce=144, three=288, five_reduce=32, five=64, pool=64),
    _Widths(one=256, three_reduce=160, three=320, five_reduce=32, five=128, pool=128),
    None,
    _Widths(one=256, three_reduce=160, three=320, five_reduce=32, five=128, pool=128),
    _Widths(one=384, three_reduce=192, three=384, five_reduce=48, five=128, pool=128),
)


def googlenet(num_classes: int = 10) -> nn.Module:
    """GoogLeNet for 3×32×32 images: 6,166,250 parameters with 10 classes."""
    stages: list[nn.Module] = []
    num_in = 192
    for widths in _INCEPTIONS:
        if widths is None:
            stages.append(nn.MaxPool2d(3, stride=2, padding=1))
        else:
            stages.append(_Inception(num_in, widths))
            num_in = widths.num_out
    return nn.Sequential(
        OrderedDict(
            stem=_conv(3, 192, kernel_size=3),
            stages=nn.Sequential(*stages),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(1),
            classifier=nn.Linear(num_in, num_classes),
        )
    )


class _Inception(nn.Module):
    def __init__(self, num_in: int, widths: _Widths) -> None:
        super().__init__()
        self.one = _conv(num_in, widths.one, kernel_size=1)
        self.three = nn.Sequential(
            _conv(num_in, widths.three_reduce, kernel_size=1),
            _conv(widths.three_reduce, widths.three, kernel_size=3),
        )
        self.five = nn.Sequential(
            _conv(num_in, widths.five_reduce, kernel_size=1),
            _conv(widths.five_reduce, widths.five, kernel_size=3),
            _conv(widths.five, widths.five, kernel_size=3),
        )
        self.pool = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            _conv(num_in, widths.pool, kernel_size=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], dim=1)


def _conv(num_in: int, num_out: int, *, kernel_size: int) -> nn.Module:
    conv: nn.Module = Conv2dNormActivation(num_in, num_out, kernel_size, bias=True)
    return conv
