"""Noise on the colours of training images, for every loader: added to the normalised images on the device.

AlexNet's "fancy PCA" (Krizhevsky et al. 2012, section 4.1): each image is shifted along the principal
components of ImageNet's colours, by a normal number times the component's standard deviation. Nothing is
rounded or cut off, and the last of all changes is this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anynet_dist.data.loaders.base import Loader, LoaderRequest
from anynet_dist.data.loaders.names import LoaderName
from anynet_dist.data.loaders.transfer import one_thread
from anynet_dist.data.order import Indices
from anynet_dist.data.transforms.params import uniform_draws

# Of ImageNet's RGB in 0..1; those that AlexNet's successors have used since Facebook's fb.resnet.torch.
DEVIATIONS = np.array([0.2175, 0.0188, 0.0045])
COMPONENTS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
"""One component a column; a row a colour."""
_STREAM = 3


class Lighting:
    """What is added to each image: a function of (seed, epoch, key of the sample) alone."""

    def __init__(self, strength: float, std: Sequence[float], seed: int) -> None:
        """`strength` is the standard deviation of the normal numbers; `std` that of the normalisation."""
        self.strength, self.std, self.seed = strength, np.array(std), seed

    def shifts(self, epoch: int, keys: Indices) -> NDArray[np.float32]:
        """The shift of each sample's three normalised channels, shape (N, 3)."""
        radius, angle = np.split(uniform_draws(self.seed, epoch, keys, 6, _STREAM), 2, axis=1)
        normal = np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)  # Box and Muller, 1958
        colours = (self.strength * normal * DEVIATIONS) @ COMPONENTS.T
        return (colours / self.std).astype(np.float32)


class LitLoader:
    """A loader of training images whose batches are lit."""

    def __init__(self, loader: Loader, light: Lighting, request: LoaderRequest) -> None:
        """`request` is what the loader was made for."""
        self.loader, self.light, self.request = loader, light, request
        self._start = (0, 0)

    @property
    def name(self) -> LoaderName:
        """Which of the loaders makes the batches."""
        return self.loader.name

    def __len__(self) -> int:
        return len(self.loader)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """The next iteration is that of `epoch`, from batch `first_batch` on."""
        self._start = (epoch, first_batch)
        self.loader.set_epoch(epoch, first_batch)

    def set_resolution(self, resolution: int) -> None:
        """From the next iteration on, images are `resolution` pixels wide and high."""
        self.loader.set_resolution(resolution)

    def order(self) -> Indices:
        """Which stored samples the next iteration yields on this rank, in their order."""
        return self.loader.order()

    def sample_name(self, sample: int) -> str:
        """What to call a stored sample: its path where it has one."""
        return self.loader.sample_name(sample)

    def close(self) -> None:
        """End the loader's threads and processes."""
        self.loader.close()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, first_batch = self._start
        batches = self.request.batches(epoch, first_batch)
        for keys, (images, labels) in zip(batches, self.loader, strict=True):
            shifts = torch.from_numpy(self.light.shifts(epoch, keys.values)).to(images.device)
            with one_thread():  # as the loaders themselves do: the other cores decode
                images.add_(shifts[:, :, None, None])
            yield images, labels
