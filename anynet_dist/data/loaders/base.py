"""What every loader is asked for, and what it offers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from anynet_dist.data.dataset import Dataset
from anynet_dist.data.loaders.names import LoaderName
from anynet_dist.data.loaders.transfer import Transfer
from anynet_dist.data.order import Indices, Plan, SampleKeys, check_rank, sample_keys
from anynet_dist.data.transforms.normalisation import Normalisation
from anynet_dist.data.transforms.params import SampleTransform


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Which process a loader serves, and where its batches go; by default this process alone, on the CPU."""

    rank: int = 0
    world: int = 1
    """Processes of the run."""
    local_world: int = 1
    """Those of them on this machine, which share its cores and memory."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    workers: int | None = None
    """Threads or processes that read. Default: this process's fraction of the cores; 0 has the torch loader
    read in this process."""
    channels_last: bool = False
    """The memory format of the batches."""
    copy_ahead: bool = True
    """Whether a GPU gets the next batch during the step before it."""

    @property
    def ahead(self) -> bool:
        """Whether batches are copied to the device ahead of time; on a CPU there is nothing to copy."""
        return self.copy_ahead and self.device.type == "cuda"

    def __post_init__(self) -> None:
        check_rank(self.rank, self.world)


@dataclass(frozen=True, kw_only=True)
class LoaderRequest:
    """What a loader is to read, in which order, what to do with it, and where to put it."""

    data: Dataset
    plan: Plan
    transform: SampleTransform
    normalisation: Normalisation
    placement: Placement = field(default_factory=Placement)

    def batches(self, epoch: int, first_batch: int) -> list[SampleKeys]:
        """The samples of each batch of an epoch from `first_batch` on."""
        return sample_keys(self.plan, self.data.indices, self.data.num_stored, epoch, first_batch)

    def transfer(self) -> Transfer:
        """The last step: to the device, and normalised."""
        normalisation, placement = self.normalisation, self.placement
        return Transfer(placement.device, normalisation.mean, normalisation.std, placement.channels_last)


class Loader(Protocol):
    """Yields (images float32 normalised (B, 3, R, R), labels int64 (B,)), both on the device."""

    @property
    def name(self) -> LoaderName:
        """Which of the loaders it is."""

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """The next iteration is that of `epoch`; it starts at batch `first_batch` at once."""

    def set_resolution(self, resolution: int) -> None:
        """From the next iteration on, images are `resolution` pixels wide and high (progressive resizing).

        A loader is made for its largest resolution; a larger one takes more memory then. Raises UserError
        where a shift or a hole would be larger than that.
        """

    def order(self) -> Indices:
        """Which stored samples the next iteration yields on this rank, in their order."""

    def sample_name(self, sample: int) -> str:
        """What to call a stored sample: its path where it has one."""

    def close(self) -> None:
        """End the loader's threads and processes."""


class RequestedLoader:
    """The part of a Loader that all have in common."""

    name: LoaderName

    def __init__(self, request: LoaderRequest) -> None:
        self.request, self.transform, self.transfer = request, request.transform, request.transfer()
        self._start = (0, 0)

    def __len__(self) -> int:
        return len(self.request.plan)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """The next iteration is that of `epoch`, from batch `first_batch` on."""
        self._start = (epoch, first_batch)

    def set_resolution(self, resolution: int) -> None:
        """From the next iteration on, images are `resolution` pixels wide and high."""
        self.transform = replace(self.transform, resolution=resolution)

    def order(self) -> Indices:
        """Which stored samples the next iteration yields on this rank, in their order."""
        batches = [keys.indices for keys in self.request.batches(*self._start)]
        return np.concatenate(batches) if batches else np.zeros(0, np.int64)

    def sample_name(self, sample: int) -> str:
        """What to call a stored sample: its path where it has one."""
        return self.request.data.samples.name(sample)

    def close(self) -> None:
        """There is nothing to end."""
