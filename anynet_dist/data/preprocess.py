"""Images as evaluation feeds them to a trained network: the same crop, resizing and normalisation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from anynet_dist.data.dataset import Dataset
from anynet_dist.data.decoding import Pixels, decode, read_image_file, reason
from anynet_dist.data.loaders.base import LoaderRequest, Placement
from anynet_dist.data.order import EvalPlan
from anynet_dist.data.samples import Samples
from anynet_dist.data.transforms.normalisation import Normalisation
from anynet_dist.data.transforms.params import SampleTransform
from anynet_dist.system.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """From images of any size to what a network takes, as the torch loader prepares them for evaluation."""

    resolution: int
    """Side in pixels of the result."""
    mean: Sequence[float]
    """Taken off each pixel, in 0..1."""
    std: Sequence[float]
    """Divides each pixel, in 0..1."""
    crop_ratio: float | None = None
    """Fraction of the shorter side that the centre crop keeps; None takes squares whole, and of other images
    the largest centre square."""

    def __call__(self, image: str | os.PathLike[str] | Image | Pixels) -> Tensor:
        """An image file, a Pillow image or RGB pixels (H, W, 3) uint8, as float32 (3, R, R).

        Raises UserError where it cannot be read, or is something else.
        """
        return self.batch([_pixels_of(image)])[0]

    def batch(self, images: Sequence[Pixels], device: torch.device | None = None) -> Tensor:
        """RGB pixels (H, W, 3) uint8 of any sizes, as float32 (N, 3, R, R) on `device`."""
        from anynet_dist.data.loaders.torch import TorchLoader

        # The centre square of a square is all of it, so ratio 1 is "whole" for the squares trained on.
        request = LoaderRequest(
            data=Dataset(path=Path("memory"), samples=_Pictures(images)),
            plan=EvalPlan(num_samples=len(images), batch_size=len(images)),
            transform=SampleTransform(resolution=self.resolution, crop_ratio=self.crop_ratio or 1.0),
            normalisation=Normalisation(self.mean, self.std),
            placement=Placement(device=device or torch.device("cpu"), workers=0),
        )
        ((batch, _),) = TorchLoader(request)
        return batch


class _Pictures(Samples):
    """Decoded images as `Samples`, without labels."""

    def __init__(self, images: Sequence[Pixels]) -> None:
        self.images = images
        self.labels = np.zeros(len(images), np.int64)

    def image(self, index: int) -> Pixels:
        return self.images[index]

    def name(self, index: int) -> str:
        return f"image {index}"


def _pixels_of(image: str | os.PathLike[str] | Image | Pixels) -> Pixels:
    if isinstance(image, str | os.PathLike):
        try:
            return decode(read_image_file(Path(image)))
        except Exception as error:  # decoders raise all kinds of errors
            raise UserError(f"{os.fspath(image)}: cannot be read as an image: {reason(error)}") from error
    pixels = np.asarray(image.convert("RGB") if hasattr(image, "convert") else image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise UserError(
            "an image is a file, a Pillow image or an array (H, W, 3) of uint8, not"
            f" {pixels.dtype} of shape {pixels.shape}"
        )
    return pixels
