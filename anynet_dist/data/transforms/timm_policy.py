"""timm's RandAugment, whose strengths vary and may all grow with the magnitude; one image at a time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

TRANSLATION = 0.45
"""Largest translation over the side of the image, as in timm's own training transforms."""


class TimmPolicy:
    """The policy that timm calls `name`, such as rand-m7-mstd0.5-inc1, on images of `side` pixels."""

    def __init__(self, name: str, side: int, fill: tuple[int, int, int]) -> None:
        from timm.data.auto_augment import rand_augment_transform

        options = {"translate_const": int(side * TRANSLATION), "img_mean": fill}
        self.policy = rand_augment_transform(name, options)

    def __call__(self, image: Tensor) -> Tensor:
        """An image (3, R, R) uint8 to one alike; what is drawn follows from torch's random numbers alone."""
        with _seeded(int(torch.randint(2**32, ()))):
            changed = self.policy(F.to_pil_image(image))
        return F.pil_to_tensor(changed)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Python's and numpy's own random numbers from a seed, and as they were afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
