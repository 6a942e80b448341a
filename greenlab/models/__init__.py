"""Architectures, one builder per file: `def name(num_classes: int = 10) -> nn.Module`.

These are the forms of the networks for 3×32×32 images that the paper studies. torchvision's own
builders expect 224×224 and shrink an image 32-fold: at 32×32, its ResNet18 does a fifteenth of the
paper's work without complaint. A file that builds on torchvision says which parts it replaces; the
others are written out. conf/model/ names the builders, and may name any other importable one.

Weights are drawn from torch's generator, which `seed` seeds before a network is built, and as
PyTorch draws them by default, in every layer of all of them: see `initialise`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def initialise(network: "nn.Module") -> "nn.Module":
    """Draw the weights of a torchvision network anew as PyTorch does by default.

    Convolutions and linear layers are uniform within ±1/√fan_in (`kaiming_uniform_` with a = √5),
    batch norm starts with 1 and 0. torchvision has other rules for most of its networks; one
    rule for all sixteen lets them be compared, and RegNet learn in a few epochs.
    """
    from torch import nn  # not above: python -m greenlab.models --help imports this package

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            layer.reset_parameters()
    return network
