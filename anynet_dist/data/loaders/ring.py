"""The memory that one thread fills with batches while another uses them."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anynet_dist.data.transforms.params import NUM_COLUMNS, SampleParams


class Ring:
    """Slots for batches of images and their sample parameters, used in turn and kept from epoch to epoch."""

    def __init__(self, slots: int, batch_size: int, resolution: int, pinned: bool) -> None:
        """For images up to `resolution`; `pinned` memory is copied to a GPU beside other work."""
        self.slots, self.batch_size, self.resolution, self.pinned = slots, batch_size, resolution, pinned
        self._memory = torch.empty(self._bytes(resolution), dtype=torch.uint8, pin_memory=pinned)
        self._params = np.zeros((slots, batch_size, NUM_COLUMNS), np.int64)

    @property
    def mebibytes(self) -> float:
        """The size of the image memory."""
        return len(self._memory) / 2**20

    def slot(
        self, number: int, count: int, resolution: int
    ) -> tuple[Tensor, NDArray[np.uint8], SampleParams]:
        """Memory of batch `number` for `count` samples: images (count, R, R, 3) uint8 as a tensor and as an
        array of the same bytes, and parameters (count, NUM_COLUMNS). Batch `number + slots` overwrites it."""
        shape = (self.slots, self.batch_size, resolution, resolution, 3)
        images = self._memory[: self._bytes(resolution)].view(shape)[number % self.slots, :count]
        return images, images.numpy(), self._params[number % self.slots, :count]

    def _bytes(self, resolution: int) -> int:
        return math.prod((self.slots, self.batch_size, resolution, resolution, 3))
