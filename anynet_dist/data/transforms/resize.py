"""Resizing by matrices: the pixels of a resized image are weighted means of those of the original, rows and
columns apart."""

from __future__ import annotations

import torch
from torch import Tensor

from anynet_dist.data.transforms.params import Resize


def resize_weights(start: Tensor, length: Tensor, size: int, resolution: int, method: Resize) -> Tensor:
    """How much each of `size` pixels counts in each of `resolution`, shape (B, resolution, size), float32.

    `start` and `length` (B,) say which of the pixels are resized. `bilinear` is a triangle as wide as two
    resized pixels (torchvision's antialiasing), `area` the part of each pixel that a resized one covers (as
    in FFCV, which uses OpenCV's INTER_AREA).
    """
    scale = (length.float() / resolution)[:, None, None]
    pixels = torch.arange(size, device=start.device) - start[:, None, None]
    targets = torch.arange(resolution, device=start.device)[:, None]
    if method == "area":
        first, last = targets * scale, (targets + 1) * scale
        weights = torch.minimum(pixels + 1, last) - torch.maximum(pixels, first)
    else:
        centres = (targets + 0.5) * scale
        weights = 1 - (pixels + 0.5 - centres).abs() / scale.clamp(min=1)
    inside = (pixels >= 0) & (pixels < length[:, None, None])
    weights = weights.clamp(min=0) * inside
    return weights / weights.sum(dim=2, keepdim=True)


def resize_boxes(images: Tensor, boxes: Tensor, resolution: int, method: Resize) -> Tensor:
    """Cut a box (top, left, height, width) out of each image and resize it.

    `images` (B, H, W, 3) uint8 and `boxes` (B, 4) give (B, resolution, resolution, 3) uint8.
    """
    top, left, height, width = boxes.unbind(dim=1)
    rows = resize_weights(top, height, images.shape[1], resolution, method)
    columns = resize_weights(left, width, images.shape[2], resolution, method)
    planes = images.permute(0, 3, 1, 2).float()  # (B, 3, H, W)
    narrow = planes @ columns[:, None].mT
    if method == "bilinear":  # as torchvision: columns first, integers between
        narrow.round_()
    resized = (rows[:, None] @ narrow).round_().clamp_(0, 255)
    return resized.to(torch.uint8).permute(0, 2, 3, 1)
