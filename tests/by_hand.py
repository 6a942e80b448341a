"""The architectures counted a second time, from the tables of their papers and from no network.

Each function adds up the layers of a network's CIFAR form. A convolution from `num_in` to `num_out`
channels with k×k filters has num_in/groups · num_out · k² weights, and as many multiply-accumulates
for each pixel of the `size` × `size` image that it makes. Batch norm behind it has two parameters
for each channel, and buffers of two 4-byte numbers for each channel and one of 8 bytes.
"""

from dataclasses import dataclass


@dataclass
class Tally:
    parameters: int = 0
    buffer_bytes: int = 0
    macs: int = 0
    norm_elements: int = 0
    """Numbers that batch norm changes in one sample."""

    def conv(
        self, num_in: int, num_out: int, k: int, size: int, *, groups: int = 1, norm: bool = True
    ) -> None:
        weights = num_in // groups * num_out * k * k
        self.parameters += weights
        self.macs += weights * size * size
        if norm:
            self.norm(num_out, size)

    def norm(self, num_channels: int, size: int) -> None:
        self.parameters += 2 * num_channels
        self.buffer_bytes += 2 * 4 * num_channels + 8
        self.norm_elements += num_channels * size * size

    def linear(self, num_in: int, num_out: int) -> None:
        self.parameters += num_in * num_out + num_out
        self.macs += num_in * num_out

    def squeeze_excitation(self, num_channels: int, num_squeezed: int) -> None:
        self.linear(num_channels, num_squeezed)
        self.linear(num_squeezed, num_channels)


def mobilenet() -> Tally:
    """Table 1 of the paper, at 32×32 and with a stem of stride 1."""
    net = Tally()
    net.conv(3, 32, 3, 32)
    layers = [(32, 64, 32), (64, 128, 16), (128, 128, 16), (128, 256, 8), (256, 256, 8)]
    layers += [(256, 512, 4), *5 * [(512, 512, 4)], (512, 1024, 2), (1024, 1024, 2)]
    for num_in, num_out, size in layers:
        net.conv(num_in, num_in, 3, size, groups=num_in)
        net.conv(num_in, num_out, 1, size)
    net.linear(1024, 10)
    return net


def efficientnet_b0() -> Tally:
    """Table 1 of the paper, at 32×32, with a stem of stride 1 and no 1,280-wide head.

    A block widens, filters, squeezes to a quarter of its input's channels and narrows.
    """
    net = Tally()
    net.conv(3, 32, 3, 32)
    num_in = 32
    for widening, num_out, blocks, k, size_in, size in (
        (1, 16, 1, 3, 32, 32),
        (6, 24, 2, 3, 32, 16),
        (6, 40, 2, 5, 16, 8),
        (6, 80, 3, 3, 8, 4),
        (6, 112, 3, 5, 4, 4),
        (6, 192, 4, 5, 4, 2),
        (6, 320, 1, 3, 2, 2),
    ):
        for block in range(blocks):
            wide = widening * num_in
            if widening != 1:
                net.conv(num_in, wide, 1, size_in if block == 0 else size)
            net.conv(wide, wide, k, size, groups=wide)
            net.squeeze_excitation(wide, num_in // 4)
            net.conv(wide, num_out, 1, size)
            num_in = num_out
    net.linear(320, 10)
    return net


def pnasnet() -> Tally:
    """Stages of 32, 64 and 128 channels on 32², 16² and 8²; six cells each, one in between."""
    net = Tally()
    net.conv(3, 32, 3, 32)

    def cell(num_in: int, num_out: int, size: int) -> None:
        for k in (7, 3, 5):  # one input channel for each filter
            net.conv(num_in, num_out, k, size, groups=num_in)
        if num_in != num_out:
            net.conv(num_in, num_out, 1, size)
        net.conv(2 * num_out, num_out, 1, size)

    for num_channels, size in ((32, 32), (64, 16), (128, 8)):
        if num_channels > 32:
            cell(num_channels // 2, num_channels, size)
        for _ in range(6):
            cell(num_channels, num_channels, size)
    net.linear(128, 10)
    return net


def preact_resnet18() -> Tally:
    """Table 1 of the ResNet paper, 18 layers; batch norm before each of a block's convolutions."""
    net = Tally()
    net.conv(3, 64, 3, 32, norm=False)
    num_in, size_in = 64, 32
    for num_out, size in ((64, 32), (128, 16), (256, 8), (512, 4)):
        for _ in range(2):
            net.norm(num_in, size_in)
            net.conv(num_in, num_out, 3, size)
            net.conv(num_out, num_out, 3, size, norm=False)
            if num_in != num_out:
                net.conv(num_in, num_out, 1, size, norm=False)
            num_in, size_in = num_out, size
    net.linear(512, 10)
    return net


def regnetx_200mf() -> Tally:
    """Depths 1, 1, 4, 7, widths 24, 56, 152, 368, groups of 8 channels; no bottleneck."""
    net = Tally()
    net.conv(3, 64, 3, 32)
    num_in, size_in = 64, 32
    for depth, width, size in ((1, 24, 32), (1, 56, 32), (4, 152, 16), (7, 368, 8)):
        for block in range(depth):
            if block == 0:
                net.conv(num_in, width, 1, size)  # the shortcut
            net.conv(num_in, width, 1, size_in)
            net.conv(width, width, 3, size, groups=width // 8)
            net.conv(width, width, 1, size)
            num_in, size_in = width, size
    net.linear(368, 10)
    return net


def resnext29_2x64d() -> Tally:
    """Three stages of three blocks: two groups of 64, 128 and 256 channels, twice as many out."""
    net = Tally()
    net.conv(3, 64, 1, 32)
    num_in, size_in = 64, 32
    for group_width, size in ((64, 32), (128, 16), (256, 8)):
        width = 2 * group_width
        for block in range(3):
            net.conv(num_in, width, 1, size_in)
            net.conv(width, width, 3, size, groups=2)
            net.conv(width, 2 * width, 1, size)
            if block == 0:
                net.conv(num_in, 2 * width, 1, size)
            num_in, size_in = 2 * width, size
    net.linear(1024, 10)
    return net


def shufflenet_v2() -> Tally:
    """Table 5 of the paper, 1×: 24, 116, 232, 464 and 1,024 channels; units 4, 8, 4."""
    net = Tally()
    net.conv(3, 24, 3, 32)
    num_in = 24
    for num_out, units, size in ((116, 4, 16), (232, 8, 8), (464, 4, 4)):
        half = num_out // 2
        # The first unit halves the image in both branches, each of which makes half the channels.
        net.conv(num_in, num_in, 3, size, groups=num_in)
        net.conv(num_in, half, 1, size)
        net.conv(num_in, half, 1, 2 * size)
        net.conv(half, half, 3, size, groups=half)
        net.conv(half, half, 1, size)
        for _ in range(units - 1):
            net.conv(half, half, 1, size)
            net.conv(half, half, 3, size, groups=half)
            net.conv(half, half, 1, size)
        num_in = num_out
    net.conv(464, 1024, 1, 4)
    net.linear(1024, 10)
    return net


def simpledla() -> Tally:
    """Two plain stages, then trees of depth 1, 2, 2 and 1; a root joins two branches by 1×1."""
    net = Tally()
    net.conv(3, 16, 3, 32)
    net.conv(16, 16, 3, 32)
    net.conv(16, 32, 3, 32)

    def block(num_in: int, num_out: int, size: int) -> None:
        net.conv(num_in, num_out, 3, size)
        net.conv(num_out, num_out, 3, size)
        if num_in != num_out:
            net.conv(num_in, num_out, 1, size)

    def tree(num_in: int, num_out: int, size: int, depth: int) -> None:
        branch = block if depth == 1 else lambda n, out, side: tree(n, out, side, depth - 1)
        branch(num_in, num_out, size)
        branch(num_out, num_out, size)
        net.conv(2 * num_out, num_out, 1, size)

    tree(32, 64, 32, 1)
    tree(64, 128, 16, 2)
    tree(128, 256, 8, 2)
    tree(256, 512, 4, 1)
    net.linear(512, 10)
    return net
