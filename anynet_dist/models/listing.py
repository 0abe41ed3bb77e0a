"""The blocks of the design document's code listing, exactly as listed.

They differ from the prose and the papers that blocks.py follows: `bottleneck_ratio` multiplies the 3x3's
channels, `group_width` is the number of groups of all three convolutions, the VGG block reduces by pooling
after its convolution, and the inception block never reduces. Their convolutions start as PyTorch starts them.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anynet_dist.models.blocks import count_projection, inception_widths, nearest_divisors, projection
from anynet_dist.models.complexity import Tally
from anynet_dist.models.registry import register_block
from anynet_dist.system.errors import UserError


@register_block("listing_bottleneck")
class ListingBottleneck(nn.Module):
    """1x1, expanding 3x3, contracting 1x1, all in `group_width` groups, and a residual."""

    residual_norm = "bn3"

    def __init__(
        self,
        width_in: int,
        width_out: int,
        stride: int,
        bottleneck_ratio: float,
        group_width: int | None = None,
    ) -> None:
        super().__init__()
        expanded, groups = listing_shape(width_in, width_out, bottleneck_ratio, group_width)
        self.conv1 = nn.Conv2d(width_in, width_out, 1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, expanded, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(expanded)
        self.conv3 = nn.Conv2d(expanded, width_out, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(width_out)
        self.shortcut = projection(width_in, width_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width_in, H, W) -> (N, width_out, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)

    @staticmethod
    def complexity(
        tally: Tally, width_out: int, stride: int, bottleneck_ratio: float, group_width: int | None = None
    ) -> None:
        """Count the block."""
        expanded, groups = listing_shape(tally.channels, width_out, bottleneck_ratio, group_width)
        shortcut = tally.fork()
        tally.conv(width_out, 1, groups=groups)
        tally.norm()
        tally.conv(expanded, 3, stride, groups)
        tally.norm()
        tally.conv(width_out, 1, groups=groups)
        tally.norm()
        count_projection(shortcut, width_out, stride)
        tally.merge(shortcut)


def listing_shape(
    width_in: int, width_out: int, bottleneck_ratio: float, group_width: int | None
) -> tuple[int, int]:
    """Channels of the 3x3 convolution and the number of groups of all three convolutions.

    Raises UserError where a width is not divisible by the number of groups.
    """
    expanded, groups = round(width_out * bottleneck_ratio), group_width or 1
    common = math.gcd(width_in, width_out, expanded)
    if common % groups:
        raise UserError(
            f"the listing's group_width is a number of groups, and {groups} groups do not divide all of the "
            f"widths {width_in} (in), {width_out} (out) and {expanded} (3x3): "
            f"use group_width {nearest_divisors(common, groups)}"
        )
    return expanded, groups


@register_block("listing_vgg")
class ListingVGG(nn.Module):
    """One 3x3 convolution; where the stride is above 1 a max-pooling follows it."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.bn = nn.BatchNorm2d(width_out)
        self.pool = nn.MaxPool2d(stride, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, width_in, H, W) -> (N, width_out, H // stride, W // stride)."""
        return self.pool(F.relu(self.bn(self.conv(x)), inplace=True))

    @staticmethod
    def complexity(tally: Tally, width_out: int, stride: int) -> None:
        """Count the block."""
        tally.conv(width_out, 3, bias=True)
        tally.norm()
        if stride > 1:
            tally.max_pool(stride, stride)


@register_block("listing_inception")
class ListingInception(nn.Module):
    """Four branches side by side that keep the resolution whatever the stride."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        quarter, half, eighth = inception_widths(width_out)
        self.branch_1x1 = nn.Sequential(*_conv_norm_relu(width_in, quarter, 1))
        self.branch_3x3 = nn.Sequential(*_conv_norm_relu(width_in, half, 1), *_conv_norm_relu(half, half, 3))
        self.branch_5x5 = nn.Sequential(
            *_conv_norm_relu(width_in, half, 1), *_conv_norm_relu(half, eighth, 5)
        )
        self.branch_pool = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), *_conv_norm_relu(width_in, eighth, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, width_in, H, W) -> (N, width_out, H, W)."""
        return torch.cat([self.branch_1x1(x), self.branch_3x3(x), self.branch_5x5(x), self.branch_pool(x)], 1)

    @staticmethod
    def complexity(tally: Tally, width_out: int, stride: int) -> None:
        """Count the block."""
        quarter, half, eighth = inception_widths(width_out)
        branches = one, three, five, pool = tally.fork(), tally.fork(), tally.fork(), tally.fork()
        pool.max_pool(3, 1, padding=1)
        layers = [(one, quarter, 1), (three, half, 1), (three, half, 3)]
        layers += [(five, half, 1), (five, eighth, 5), (pool, eighth, 1)]
        for branch, width, kernel in layers:
            branch.conv(width, kernel, bias=True)
            branch.norm()
        tally.concatenate(branches)


def _conv_norm_relu(width_in: int, width_out: int, kernel: int) -> list[nn.Module]:
    convolution = nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2)
    return [convolution, nn.BatchNorm2d(width_out), nn.ReLU(inplace=True)]


_LISTING_NAMES = (
    (re.compile(r"layer(\d+)\."), r"stage\1."),
    (re.compile(r"stem\.0\."), "stem.conv."),
    (re.compile(r"stem\.1\."), "stem.bn."),
    (re.compile(r"head\.2\."), "head.fc."),
)


def rename_listing_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give a state dict in the listing's names ours, in place; a load_state_dict pre-hook."""
    for key in list(state_dict):
        for pattern, name in _LISTING_NAMES:
            if pattern.match(key, len(prefix)):
                new_key = prefix + pattern.sub(name, key[len(prefix) :], count=1)
                state_dict[new_key] = state_dict.pop(key)
                break
