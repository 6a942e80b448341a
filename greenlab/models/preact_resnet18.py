"""PreActResNet18: ResNet18 that normalises before it convolves, so that shortcuts stay untouched.

He, Zhang, Ren, Sun, *Identity Mappings in Deep Residual Networks* (2016). The CIFAR form opens with
a 3×3 convolution of stride 1 in place of the 7×7 one of stride 2 and the max-pool of the 18 layers
for ImageNet. It has no batch norm and ReLU around its blocks: the original has them after its stem,
before the first shortcut branches off, and after its last block.
"""

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn


def preact_resnet18(num_classes: int = 10) -> nn.Module:
    """PreActResNet18 for 3×32×32 images: 11,171,146 parameters with 10 classes."""
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False),
            blocks=preact_blocks(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(1),
            classifier=nn.Linear(512, num_classes),
        )
    )


def preact_blocks(recalibrate: Callable[[int], nn.Module] | None = None) -> nn.Sequential:
    """Four stages of two blocks, 64 to 512 channels, 32×32 to 4×4.

    `recalibrate`, given a number of channels, builds what ends a block's residual branch.
    """
    blocks: list[nn.Module] = []
    num_in = 64
    for num_out in (64, 128, 256, 512):
        for _ in range(2):
            ending = [recalibrate(num_out)] if recalibrate else []
            blocks.append(_PreActBlock(num_in, num_out, ending))
            num_in = num_out
    return nn.Sequential(*blocks)


class _PreActBlock(nn.Module):
    def __init__(self, num_in: int, num_out: int, ending: list[nn.Module]) -> None:
        super().__init__()
        stride = 1 if num_in == num_out else 2
        self.activate = nn.Sequential(nn.BatchNorm2d(num_in), nn.ReLU(inplace=True))
        self.residual = nn.Sequential(
            nn.Conv2d(num_in, num_out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(num_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(num_out, num_out, 3, padding=1, bias=False),
            *ending,
        )
        self.projection: nn.Module | None = None
        if num_in != num_out:
            self.projection = nn.Conv2d(num_in, num_out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activate(x)
        residual: Tensor = self.residual(activated)
        return residual + (x if self.projection is None else self.projection(activated))
