"""Stems: from the image (N, width_in, H, W) to the first feature map (N, width_out, H', W')."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from anynet_dist.models.blocks import conv
from anynet_dist.models.complexity import Tally
from anynet_dist.models.registry import register_stem


class ConvStem(nn.Module):
    """A convolution, batch norm and ReLU; optionally a 3x3 max-pooling that halves the resolution."""

    kernel: ClassVar[int] = 3
    stride: ClassVar[int] = 1
    pooling: ClassVar[bool] = False

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv = conv(width_in, width_out, self.kernel, self.stride)
        self.bn = nn.BatchNorm2d(width_out)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if self.pooling else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, width_in, H, W) -> (N, width_out, H', W')."""
        return self.pool(F.relu(self.bn(self.conv(x)), inplace=True))

    @classmethod
    def complexity(cls, tally: Tally, width_out: int) -> None:
        """Count the stem."""
        tally.conv(width_out, cls.kernel, cls.stride)
        tally.norm()
        if cls.pooling:
            tally.max_pool(3, 2, padding=1)


@register_stem("conv3x3_s1")
class SmallImageStem(ConvStem):
    """3x3 at stride 1, for small images such as CIFAR's: the resolution stays."""


@register_stem("conv3x3_s2")
class StridedStem(ConvStem):
    """3x3 at stride 2, RegNet's stem: the resolution halves by striding."""

    stride = 2


@register_stem("conv7x7_s2_maxpool")
class ImageNetStem(ConvStem):
    """7x7 at stride 2 and max-pooling, ResNet's stem for ImageNet: a quarter of the resolution."""

    kernel = 7
    stride = 2
    pooling = True


@register_stem("conv3x3_maxpool")
class PoolingStem(ConvStem):
    """3x3 at stride 1 and max-pooling: the resolution halves by pooling."""

    pooling = True
