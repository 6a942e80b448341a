"""DenseNet121: every layer sees the outputs of all layers before it in its stage.

Huang, Liu, van der Maaten, Weinberger, *Densely Connected Convolutional Networks* (2016). The
original opens with a 7×7 convolution of stride 2, batch norm, ReLU and a max-pool, which leave 8×8
of a 32×32 image. The CIFAR form opens with one 3×3 convolution of stride 1, which the first dense
layer normalises itself; the rest is torchvision's DenseNet121.
"""

from typing import Any

import torchvision
from torch import nn

from greenlab.models import initialise


def densenet121(num_classes: int = 10) -> nn.Module:
    """DenseNet121 for 3×32×32 images: 6,956,298 parameters with 10 classes."""
    network: Any = torchvision.models.densenet121(num_classes=num_classes)
    network.features.conv0 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    del network.features.norm0, network.features.relu0, network.features.pool0
    return initialise(network)
