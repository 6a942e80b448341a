"""ShuffleNetV2 (1×): half the channels pass by untouched, then the halves are shuffled.

Ma, Zhang, Zheng, Sun, *ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design*
(2018). The original opens with a convolution of stride 2 and a max-pool, which leave 8×8 of a 32×32
image. The CIFAR form opens with a convolution of stride 1 and no max-pool; the rest is
torchvision's ShuffleNetV2 of width 1×.
"""

from typing import Any

import torchvision
from torch import nn

from greenlab.models import initialise


def shufflenet_v2(num_classes: int = 10) -> nn.Module:
    """ShuffleNetV2 (1×) for 3×32×32 images: 1,263,854 parameters with 10 classes."""
    network: Any = torchvision.models.shufflenet_v2_x1_0(num_classes=num_classes)
    network.conv1[0].stride = (1, 1)
    network.maxpool = nn.Identity()
    return initialise(network)
