"""RegNetX-200MF: stages whose widths and depths follow one line, found by shrinking a design space.

Radosavovic, Kosaraju, Girshick, He, Dollár, *Designing Network Design Spaces* (2020). The CIFAR
form opens with a 3×3 convolution of stride 1 to 64 channels in place of one of stride 2 to 32, and
its first two stages keep the image's size, so that the last feature map is 8×8. Depths, widths and
groups are the paper's, the blocks torchvision's.
"""

from functools import partial

from torch import nn
from torchvision.models.regnet import BlockParams, RegNet
from torchvision.ops import Conv2dNormActivation

from greenlab.models import initialise


def regnetx_200mf(num_classes: int = 10) -> nn.Module:
    """RegNetX-200MF for 3×32×32 images: 2,321,946 parameters with 10 classes."""
    stages = BlockParams(
        depths=[1, 1, 4, 7],
        widths=[24, 56, 152, 368],
        group_widths=[8, 8, 8, 8],
        bottleneck_multipliers=[1.0, 1.0, 1.0, 1.0],
        strides=[1, 1, 2, 2],
    )
    network: nn.Module = RegNet(
        stages,
        num_classes=num_classes,
        stem_width=64,
        stem_type=_Stem,
        norm_layer=nn.BatchNorm2d,
        activation=partial(nn.ReLU, inplace=True),
    )
    return initialise(network)


class _Stem(Conv2dNormActivation):  # type: ignore[misc]  # torchvision is not typed
    """torchvision's stem, at stride 1."""

    def __init__(
        self,
        num_in: int,
        num_out: int,
        norm_layer: type[nn.Module],
        activation_layer: type[nn.Module],
    ) -> None:
        super().__init__(num_in, num_out, norm_layer=norm_layer, activation_layer=activation_layer)
