"""The blocks of the design space. Each has constructor, forward and complexity side by side.

Feature maps are (N, width_in, H, W) in and (N, width_out, H', W') out, H' = ceil(H / stride); strides sit in
the 3x3 convolutions. Sources: Designing Network Design Spaces (Radosavovic et al., 2020) for the X block
(section 3.2) and the Y block (section 5); On Network Design Spaces for Visual Recognition (Radosavovic et
al., 2019) for vanilla and residual blocks; Going Deeper with Convolutions (Szegedy et al., 2015) for
inception.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anynet_dist.models.complexity import Tally
from anynet_dist.models.registry import register_block
from anynet_dist.system.errors import UserError


def conv(width_in: int, width_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the resolution at stride 1."""
    return nn.Conv2d(
        width_in, width_out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
    )


def conv_norm_relu(width_in: int, width_out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution, its batch norm and a ReLU."""
    return [conv(width_in, width_out, kernel, stride), nn.BatchNorm2d(width_out), nn.ReLU(inplace=True)]


def projection(width_in: int, width_out: int, stride: int) -> nn.Module:
    """The shortcut of a residual block: the identity, or a 1x1 convolution where the shape changes."""
    if stride == 1 and width_in == width_out:
        return nn.Identity()
    return nn.Sequential(conv(width_in, width_out, 1, stride), nn.BatchNorm2d(width_out))


def count_projection(shortcut: Tally, width_out: int, stride: int) -> None:
    """The complexity of `projection`."""
    if stride != 1 or shortcut.channels != width_out:
        shortcut.conv(width_out, 1, stride)
        shortcut.norm()


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate computed from the averages of all (Hu et al., 2018, section 3)."""

    def __init__(self, width: int, width_squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, width_squeezed, 1)
        self.fc2 = nn.Conv2d(width_squeezed, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) -> the same shape."""
        gate = F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)), inplace=True)
        return x * torch.sigmoid(self.fc2(gate))

    @staticmethod
    def complexity(tally: Tally, width_squeezed: int) -> None:
        """Count the gate."""
        gate = tally.fork()
        gate.global_pool()
        gate.conv(width_squeezed, 1, bias=True)
        gate.conv(tally.channels, 1, bias=True)
        tally.merge(gate)


@register_block("bottleneck")
class BottleneckBlock(nn.Module):
    """1x1, 3x3 in groups, 1x1, residual: the X block; with squeeze-excitation after the 3x3, the Y block.

    The 3x3 has width_out / bottleneck_ratio channels: fewer than the block, or more (inverted) below ratio 1.
    """

    residual_norm = "bn3"

    def __init__(
        self,
        width_in: int,
        width_out: int,
        stride: int,
        bottleneck_ratio: float = 1.0,
        group_width: int | None = None,
        se_ratio: float = 0.0,
    ) -> None:
        super().__init__()
        width, groups = bottleneck_shape(width_out, bottleneck_ratio, group_width)
        self.conv1 = conv(width_in, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride, groups)
        self.bn2 = nn.BatchNorm2d(width)
        self.se = SqueezeExcitation(width, squeezed_width(width_in, se_ratio)) if se_ratio else nn.Identity()
        self.conv3 = conv(width, width_out, 1)
        self.bn3 = nn.BatchNorm2d(width_out)
        self.shortcut = projection(width_in, width_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width_in, H, W) -> (N, width_out, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.se(F.relu(self.bn2(self.conv2(y)), inplace=True))
        y = self.bn3(self.conv3(y))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)

    @staticmethod
    def complexity(
        tally: Tally,
        width_out: int,
        stride: int,
        bottleneck_ratio: float = 1.0,
        group_width: int | None = None,
        se_ratio: float = 0.0,
    ) -> None:
        """Count the block."""
        width, groups = bottleneck_shape(width_out, bottleneck_ratio, group_width)
        width_squeezed = squeezed_width(tally.channels, se_ratio)
        shortcut = tally.fork()
        tally.conv(width, 1)
        tally.norm()
        tally.conv(width, 3, stride, groups)
        tally.norm()
        if se_ratio:
            SqueezeExcitation.complexity(tally, width_squeezed)
        tally.conv(width_out, 1)
        tally.norm()
        count_projection(shortcut, width_out, stride)
        tally.merge(shortcut)


def bottleneck_shape(width_out: int, bottleneck_ratio: float, group_width: int | None) -> tuple[int, int]:
    """Channels of the 3x3 convolution and its number of groups.

    Raises UserError where the ratio leaves no channel, or the group width does not divide them.
    """
    width = round(width_out / bottleneck_ratio)
    if width < 1:
        raise UserError(
            f"bottleneck_ratio {bottleneck_ratio:g} leaves no channel of num_channels {width_out}"
        )
    if group_width is None:
        return width, 1
    if width % group_width:
        multiples = {max(1, width // group_width) * group_width, (width // group_width + 1) * group_width}
        widths = " or ".join(str(int(inner * bottleneck_ratio)) for inner in sorted(multiples))
        raise UserError(
            f"group_width {group_width} does not divide the {width} channels of the 3x3 convolution "
            f"(num_channels {width_out} / bottleneck_ratio {bottleneck_ratio:g}): "
            f"use group_width {nearest_divisors(width, group_width)}, or num_channels {widths}"
        )
    return width, width // group_width


def nearest_divisors(number: int, target: int) -> str:
    """The two divisors of `number` nearest to `target`, for an error message."""
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    divisors = sorted({*small, *(number // divisor for divisor in small)})
    nearest = sorted(divisors, key=lambda divisor: abs(divisor - target))[:2]
    return " or ".join(str(divisor) for divisor in sorted(nearest))


def squeezed_width(width_in: int, se_ratio: float) -> int:
    """Channels inside squeeze-excitation: a fraction of the block's input width, at least one."""
    return max(1, round(width_in * se_ratio))


@register_block("basic")
class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a residual: the block of ResNet-18 and -34 (He et al., 2016)."""

    residual_norm = "bn2"

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(width_in, width_out, 3, stride)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.conv2 = conv(width_out, width_out, 3)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.shortcut = projection(width_in, width_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width_in, H, W) -> (N, width_out, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)

    @staticmethod
    def complexity(tally: Tally, width_out: int, stride: int) -> None:
        """Count the block."""
        shortcut = tally.fork()
        tally.conv(width_out, 3, stride)
        tally.norm()
        tally.conv(width_out, 3)
        tally.norm()
        count_projection(shortcut, width_out, stride)
        tally.merge(shortcut)


@register_block("vgg")
class VGGBlock(nn.Module):
    """One 3x3 convolution: the V block."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv = conv(width_in, width_out, 3, stride)
        self.bn = nn.BatchNorm2d(width_out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width_in, H, W) -> (N, width_out, H / stride, W / stride)."""
        return F.relu(self.bn(self.conv(x)), inplace=True)

    @staticmethod
    def complexity(tally: Tally, width_out: int, stride: int) -> None:
        """Count the block."""
        tally.conv(width_out, 3, stride)
        tally.norm()


@register_block("vgg_residual")
class VGGResidualBlock(nn.Module):
    """One 3x3 convolution and a residual: the VR block."""

    residual_norm = "bn"

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv = conv(width_in, width_out, 3, stride)
        self.bn = nn.BatchNorm2d(width_out)
        self.shortcut = projection(width_in, width_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width_in, H, W) -> (N, width_out, H / stride, W / stride)."""
        y = self.bn(self.conv(x))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)

    @staticmethod
    def complexity(tally: Tally, width_out: int, stride: int) -> None:
        """Count the block."""
        shortcut = tally.fork()
        tally.conv(width_out, 3, stride)
        tally.norm()
        count_projection(shortcut, width_out, stride)
        tally.merge(shortcut)


@register_block("vanilla")
class VanillaBlock(nn.Module):
    """Two 3x3 convolutions without a residual."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(width_in, width_out, 3, stride)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.conv2 = conv(width_out, width_out, 3)
        self.bn2 = nn.BatchNorm2d(width_out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width_in, H, W) -> (N, width_out, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)), inplace=True)

    @staticmethod
    def complexity(tally: Tally, width_out: int, stride: int) -> None:
        """Count the block."""
        tally.conv(width_out, 3, stride)
        tally.norm()
        tally.conv(width_out, 3)
        tally.norm()


@register_block("inception")
class InceptionBlock(nn.Module):
    """Four branches side by side (1x1, 3x3, 5x5, pooling), each of which carries the stride."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        quarter, half, eighth = inception_widths(width_out)
        self.branch_1x1 = nn.Sequential(*conv_norm_relu(width_in, quarter, 1, stride))
        self.branch_3x3 = nn.Sequential(
            *conv_norm_relu(width_in, half, 1), *conv_norm_relu(half, half, 3, stride)
        )
        self.branch_5x5 = nn.Sequential(
            *conv_norm_relu(width_in, half, 1), *conv_norm_relu(half, eighth, 5, stride)
        )
        self.branch_pool = nn.Sequential(
            nn.MaxPool2d(3, stride=stride, padding=1), *conv_norm_relu(width_in, eighth, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, width_in, H, W) -> (N, width_out, H / stride, W / stride)."""
        return torch.cat([self.branch_1x1(x), self.branch_3x3(x), self.branch_5x5(x), self.branch_pool(x)], 1)

    @staticmethod
    def complexity(tally: Tally, width_out: int, stride: int) -> None:
        """Count the block."""
        quarter, half, eighth = inception_widths(width_out)
        branches = one, three, five, pool = tally.fork(), tally.fork(), tally.fork(), tally.fork()
        pool.max_pool(3, stride, padding=1)
        layers = [(one, quarter, 1, stride), (three, half, 1, 1), (three, half, 3, stride)]
        layers += [(five, half, 1, 1), (five, eighth, 5, stride), (pool, eighth, 1, 1)]
        for branch, width, kernel, step in layers:
            branch.conv(width, kernel, step)
            branch.norm()
        tally.concatenate(branches)


def inception_widths(width_out: int) -> tuple[int, int, int]:
    """A quarter, a half and an eighth of the block's width, the widths of its branches.

    Raises UserError where the width is not a multiple of 8.
    """
    if width_out % 8:
        lower, upper = max(8, width_out // 8 * 8), (width_out // 8 + 1) * 8
        nearest = " or ".join(str(width) for width in sorted({lower, upper}))
        raise UserError(
            f"an inception block's num_channels must be divisible by 8, not {width_out}: use {nearest}"
        )
    return width_out // 4, width_out // 2, width_out // 8
