"""FFCV as its own documentation uses it: what ours is measured against, for nothing else.

It hands out views of buffers that it writes again, hangs where its thread fails, and draws other random
numbers in every run. Needs FFCV: import this module only where it is installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import (
    NormalizeImage,
    RandomHorizontalFlip,
    RandomTranslate,
    Squeeze,
    ToTensor,
    ToTorchImage,
)


class BareFFCV:
    """Batches (B, 3, R, R) normalised float32 and labels (B,), by FFCV's own operations alone."""

    def __init__(
        self,
        path: Path,
        *,
        batch_size: int,
        workers: int,
        mean: Sequence[float],
        std: Sequence[float],
        resolution: int | None = None,
        shift: int = 0,
    ) -> None:
        """Random resized crop to `resolution`; without one, images as they are, shifted by up to `shift`."""
        fill = tuple(round(255 * value) for value in mean)
        decode: list[Any] = (
            [RandomResizedCropRGBImageDecoder((resolution, resolution))]
            if resolution
            else [SimpleRGBImageDecoder(), RandomTranslate(padding=shift, fill=fill)]
        )
        normalise = NormalizeImage(255 * np.array(mean), 255 * np.array(std), np.float32)
        self.loader = Loader(
            str(path),
            batch_size=batch_size,
            num_workers=workers,
            order=OrderOption.RANDOM,
            seed=0,
            os_cache=True,
            drop_last=True,
            pipelines={
                "image": [*decode, RandomHorizontalFlip(), normalise, ToTensor(), ToTorchImage()],
                "label": [IntDecoder(), ToTensor(), Squeeze(1)],
            },
        )

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)

    def __len__(self) -> int:
        return len(self.loader)
