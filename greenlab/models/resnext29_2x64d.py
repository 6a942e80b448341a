"""ResNeXt29 (2×64d): residual blocks that split into groups, wide ones, two of them.

Xie, Girshick, Dollár, Tu, He, *Aggregated Residual Transformations for Deep Neural Networks*
(2016), whose own network for CIFAR has 29 layers too: three stages of three blocks. This CIFAR form
has cardinality 2 and width 64, opens with a 1×1 convolution to 64 channels where the paper's has a
3×3 one, and ends in 1,024 features on an 8×8 map. The blocks are torchvision's.
"""

from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from greenlab.models import initialise


def resnext29_2x64d(num_classes: int = 10) -> nn.Module:
    """ResNeXt29 (2×64d) for 3×32×32 images: 9,128,778 parameters with 10 classes."""
    # torchvision's ResNet has four stages; the smallest fourth is built and left out.
    network: nn.Module = ResNet(Bottleneck, layers=[3, 3, 3, 1], groups=2, width_per_group=64)
    network.conv1 = nn.Conv2d(3, 64, kernel_size=1, bias=False)
    network.maxpool = nn.Identity()
    network.layer4 = nn.Identity()
    network.fc = nn.Linear(1024, num_classes)
    return initialise(network)
