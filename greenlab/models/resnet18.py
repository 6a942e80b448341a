"""ResNet18: each block learns what to add to its input, so that depth does not hinder training.

He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition* (2015). The original opens with
a 7×7 convolution of stride 2 and a max-pool, which leave 8×8 of a 32×32 image. The CIFAR form opens
with a 3×3 convolution of stride 1 and no max-pool; the rest is torchvision's ResNet18.
"""

import torchvision
from torch import nn

from greenlab.models import initialise


def resnet18(num_classes: int = 10) -> nn.Module:
    """ResNet18 for 3×32×32 images: 11,173,962 parameters with 10 classes."""
    network: nn.Module = torchvision.models.resnet18(num_classes=num_classes)
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return initialise(network)
