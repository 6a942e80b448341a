"""EfficientNet-B0: MobileNetV2's inverted residuals with channel attention, sized by a search.

Tan, Le, *EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks* (2019). The
CIFAR form opens with a convolution of stride 1 in place of 2 and classifies the 320 features of the
last block, without the original's widening to 1,280; the rest is torchvision's EfficientNet-B0,
dropout and stochastic depth in training included, both as in the paper. The last feature map is
2×2.
"""

from typing import Any

import torchvision
from torch import nn

from greenlab.models import initialise


def efficientnet_b0(num_classes: int = 10) -> nn.Module:
    """EfficientNet-B0 for 3×32×32 images: 3,598,598 parameters with 10 classes."""
    network: Any = torchvision.models.efficientnet_b0(num_classes=num_classes)
    network.features[0][0].stride = (1, 1)
    network.features[8] = nn.Identity()
    network.classifier[1] = nn.Linear(320, num_classes)
    return initialise(network)
