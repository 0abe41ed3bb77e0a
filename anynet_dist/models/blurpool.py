"""Blurring before striding, so that a shift of the image by a pixel changes the features little.

Zhang (Making Convolutional Networks Shift-Invariant Again, 2019) puts the blur after a convolution that no
longer strides. Here it comes before the convolution that strides, as in FFCV's ImageNet recipes, so that
their weights fit. Max-pooling stays as it is, there too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anynet_dist.system.errors import UserError

FEWEST_CHANNELS = 16
"""Convolutions of fewer input channels, such as the stem's over the image itself, are left alone."""
THEIR_FILTER = ".blur_filter"


class BlurredConv2d(nn.Conv2d):
    """A convolution whose input is blurred first, each channel by [1, 2, 1] / 4 in both directions.

    It takes over the parameters of `conv`, under the names that they have there.
    """

    blur: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        options: dict[str, Any] = {name: getattr(conv, name) for name in names}
        bias = conv.bias is not None
        super().__init__(conv.in_channels, conv.out_channels, bias=bias, device="meta", **options)
        self.weight, self.bias = conv.weight, conv.bias
        self.register_buffer("blur", blur_filter(conv.in_channels).to(conv.weight), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H', W')."""
        return super().forward(F.conv2d(x, self.blur, padding=1, groups=self.in_channels))


def blur_filter(channels: int) -> Tensor:
    """The weights of the blur as a convolution with one group a channel, shape (channels, 1, 3, 3)."""
    row = torch.tensor([1.0, 2.0, 1.0], device="cpu") / 4
    return (row[:, None] * row).expand(channels, 1, 3, 3).clone()


def is_blurred(in_channels: int, stride: int) -> bool:
    """Whether blurpool blurs the input of such a convolution."""
    return stride > 1 and in_channels >= FEWEST_CHANNELS


def add_blurpool(module: nn.Module) -> None:
    """Put a BlurredConv2d, with the same parameters, in the place of each convolution inside that strides."""
    for name, child in module.named_children():
        if type(child) is nn.Conv2d and is_blurred(child.in_channels, max(child.stride)):
            setattr(module, name, BlurredConv2d(child))
        else:
            add_blurpool(child)


def was_blurred(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of FFCV's ImageNet script with blurpool, which keeps its filters there."""
    return any(key.endswith(THEIR_FILTER) for key in state_dict)


def without_blurpool(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under the names that they have without blurpool there, as they have here.

    Raises UserError where a filter is another than the one here.
    """
    plain = dict(state_dict)
    for key in [key for key in state_dict if key.endswith(THEIR_FILTER)]:
        layer = key.removesuffix(THEIR_FILTER)
        if not torch.equal(plain.pop(key).float(), blur_filter(len(state_dict[key]))):
            raise UserError(
                f"{key}: blurs otherwise than blurpool does here, by [1, 2, 1] / 4 in both directions"
            )
        for inner in [name for name in plain if name.startswith(f"{layer}.conv.")]:
            plain[f"{layer}.{inner.removeprefix(f'{layer}.conv.')}"] = plain.pop(inner)
    return plain
