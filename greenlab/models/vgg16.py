"""VGG16 with batch norm: thirteen 3×3 convolutions in five stages, each halving the image.

Simonyan, Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition* (2014);
batch norm came later. Five halvings take a 32×32 image down to 512×1×1, so the CIFAR form needs no
average pool, and one linear layer stands for the original's three with their dropout, which hold
nine tenths of its parameters. The convolutions are torchvision's configuration D.
"""

from collections import OrderedDict

from torch import nn
from torchvision.models.vgg import cfgs, make_layers


def vgg16(num_classes: int = 10) -> nn.Module:
    """VGG16 for 3×32×32 images: 14,728,266 parameters with 10 classes."""
    # Not vgg16_bn(): it would fill 120 million weights of a classifier only to throw them away.
    return nn.Sequential(
        OrderedDict(
            features=make_layers(cfgs["D"], batch_norm=True),
            flatten=nn.Flatten(1),
            classifier=nn.Linear(512, num_classes),
        )
    )
