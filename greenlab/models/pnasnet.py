"""PNASNet: a stack of equal cells whose operations a search has picked.

Liu, Zoph, Neumann, Shlens, Hua, Li, Fei-Fei, Yuille, Huang, Murphy, *Progressive Neural
Architecture Search* (2017). The CIFAR form is a small relative of PNASNet-5. Its cell ("B") pairs
four operations into two blocks where the original's pairs ten into five, takes the last cell's
output alone where the original's takes the last two, and its separable convolutions are depthwise
only: one filter per channel (two where a cell doubles them), batch norm, no pointwise half. Three
stages of six cells, 32 channels in the first, with a cell of stride 2 between stages that doubles
the channels.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

_STAGE_WIDTHS = (32, 64, 128)
_CELLS_PER_STAGE = 6


def pnasnet(num_classes: int = 10) -> nn.Module:
    """PNASNet, cell B, for 3×32×32 images: 451,626 parameters with 10 classes."""
    cells: list[nn.Module] = []
    num_in = _STAGE_WIDTHS[0]
    for width in _STAGE_WIDTHS:
        if width != num_in:
            cells.append(_Cell(num_in, width, stride=2))
        cells += [_Cell(width, width, stride=1) for _ in range(_CELLS_PER_STAGE)]
        num_in = width
    return nn.Sequential(
        OrderedDict(
            stem=Conv2dNormActivation(3, _STAGE_WIDTHS[0]),
            cells=nn.Sequential(*cells),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(1),
            classifier=nn.Linear(num_in, num_classes),
        )
    )


class _Cell(nn.Module):
    """Adds 7×7 to 3×3 filters, 5×5 filters to a max-pool, and mixes the two sums."""

    def __init__(self, num_in: int, num_out: int, *, stride: int) -> None:
        super().__init__()
        self.separable7 = _depthwise(num_in, num_out, kernel_size=7, stride=stride)
        self.separable3 = _depthwise(num_in, num_out, kernel_size=3, stride=stride)
        self.separable5 = _depthwise(num_in, num_out, kernel_size=5, stride=stride)
        self.pool: nn.Module = nn.MaxPool2d(3, stride=stride, padding=1)
        if num_in != num_out:
            widen = Conv2dNormActivation(num_in, num_out, kernel_size=1, activation_layer=None)
            self.pool = nn.Sequential(self.pool, widen)
        self.relu = nn.ReLU(inplace=True)
        self.mix = Conv2dNormActivation(2 * num_out, num_out, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.relu(self.separable7(x) + self.separable3(x))
        second = self.relu(self.pool(x) + self.separable5(x))
        mixed: Tensor = self.mix(torch.cat([first, second], dim=1))
        return mixed


def _depthwise(num_in: int, num_out: int, *, kernel_size: int, stride: int) -> nn.Module:
    conv: nn.Module = Conv2dNormActivation(
        num_in, num_out, kernel_size, stride=stride, groups=num_in, activation_layer=None
    )
    return conv
