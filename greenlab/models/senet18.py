"""SENet18: a pre-activation ResNet18 whose blocks weigh their channels by a glance at all pixels.

Hu, Shen, Albanie, Sun, Wu, *Squeeze-and-Excitation Networks* (2017). The original builds on
ResNet50 and others for 224×224 images. The CIFAR form builds on ResNet18 with pre-activation,
squeezes 16-fold as the original does, and opens with a 3×3 convolution of stride 1, batch norm and
ReLU in place of a 7×7 one of stride 2 and a max-pool.
"""

from collections import OrderedDict

from torch import nn
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

from greenlab.models.preact_resnet18 import preact_blocks


def senet18(num_classes: int = 10) -> nn.Module:
    """SENet18 for 3×32×32 images: 11,260,354 parameters with 10 classes."""
    return nn.Sequential(
        OrderedDict(
            stem=Conv2dNormActivation(3, 64),
            blocks=preact_blocks(lambda num_out: SqueezeExcitation(num_out, num_out // 16)),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(1),
            classifier=nn.Linear(512, num_classes),
        )
    )
