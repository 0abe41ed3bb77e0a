"""Which sample goes where: a function of (seed, epoch) alone, the same for any loader and any number of
ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from anynet_dist.data.batch_plan import BatchPlan
from anynet_dist.system.errors import UserError

Indices = NDArray[np.int64]


def epoch_order(num_samples: int, seed: int, epoch: int) -> Indices:
    """A permutation of range(num_samples), shape (num_samples,), int64.

    Seed and epoch are hashed together (numpy's SeedSequence), so that seed 0 epoch 1 is not seed 1 epoch 0.
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, epoch]))
    return generator.permutation(num_samples).astype(np.int64, copy=False)


def split_indices(num_samples: int, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Split range(num_samples) at random by seed: (train, val), both sorted; val has round(fraction *
    num_samples)."""
    if not 0 < fraction < 1:
        raise UserError(f"the validation fraction must lie between 0 and 1, not {fraction}")
    num_val = round(fraction * num_samples)
    if not 0 < num_val < num_samples:
        raise UserError(f"a validation fraction of {fraction} leaves an empty part of {num_samples} samples")
    shuffled = np.random.default_rng(seed).permutation(num_samples).astype(np.int64, copy=False)
    return np.sort(shuffled[num_val:]), np.sort(shuffled[:num_val])


@dataclass(frozen=True)
class SampleKeys:
    """Samples of a data set, with the number of the copy where an epoch has several of one.

    A key holds both, `copy * num_stored + index`: each copy is augmented by draws of its own, and the first
    copy's key is the index itself.
    """

    values: Indices
    """The keys, shape (B,)."""
    num_stored: int
    """Samples of the data set."""

    @classmethod
    def of(cls, indices: Indices, copies: Indices, num_stored: int) -> Self:
        """The keys of samples `indices` (B,) as the copies `copies` (B,)."""
        return cls(indices + copies * num_stored, num_stored)

    @property
    def indices(self) -> Indices:
        """The samples' indices in the data set, shape (B,)."""
        return self.values % self.num_stored

    @property
    def copies(self) -> Indices:
        """The numbers of the copies from 0, shape (B,)."""
        return self.values // self.num_stored

    def __len__(self) -> int:
        return len(self.values)


class Plan(Protocol):
    """What one rank reads in an epoch: batches of sample positions."""

    @property
    def num_samples(self) -> int:
        """Samples of all ranks."""

    @property
    def batch_size(self) -> int:
        """Samples of a batch; those at the end of an epoch may have fewer."""

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch."""

    def batches(self, epoch: int, first_batch: int = 0) -> list[Indices]:
        """The batches of this rank from `first_batch` on: keys of positions (see SampleKeys), each of shape
        (B,)."""


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """Training: rank r of W takes its slice of every global batch.

    Global batch k is order[k*G : (k+1)*G]. With A micro-batches an update, rank r takes of it, as
    micro-batch m, the slice [(m*W + r)*D : (m*W + r + 1)*D], where D = G / (W*A). A last global batch that is
    incomplete is dropped, or cut in the same way into W*A parts as equal as can be.
    """

    num_samples: int
    batch: BatchPlan
    """G, W and A."""
    seed: int = 0
    rank: int = 0
    repeats: int = 1
    """Repeated augmentation (Hoffer et al. 2019, "Augment your batch"): this many differently augmented
    copies of a sample lie side by side in a global batch. An epoch keeps its length and so sees 1/repeats of
    the samples."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UserError(f"repeats must be at least 1, not {self.repeats}")
        check_rank(self.rank, self.batch.world_size)
        if self.num_samples < self.batch.global_batch and self.batch.drop_last:
            raise UserError(
                f"the training set has {self.num_samples} samples, fewer than one global batch of "
                f"{self.batch.global_batch}; choose a smaller global batch"
            )
        if 0 < self.last_batch < self.batch.parts:
            raise UserError(
                f"the last global batch of an epoch has {self.last_batch} samples, fewer than the "
                f"{self.batch.world_size} processes x {self.batch.accumulation} accumulation steps that "
                "share it; drop it (drop_last), or choose another global batch"
            )

    @property
    def batch_size(self) -> int:
        """Samples of a micro-batch on one device."""
        return self.batch.device_batch

    @property
    def last_batch(self) -> int:
        """Samples of an incomplete last global batch; 0 where there is none, or it is dropped."""
        return 0 if self.batch.drop_last else self.num_samples % self.batch.global_batch

    @property
    def num_updates(self) -> int:
        """Global batches, that is optimizer updates, in an epoch."""
        return self.num_samples // self.batch.global_batch + bool(self.last_batch)

    def __len__(self) -> int:
        return self.num_updates * self.batch.accumulation

    def batches(self, epoch: int, first_batch: int = 0) -> list[Indices]:
        """This rank's micro-batches from `first_batch` on."""
        order = epoch_order(self.num_samples, self.seed, epoch)
        if self.repeats > 1:
            copies = np.arange(self.repeats)
            seen = order[: -(-self.num_samples // self.repeats), None]
            order = SampleKeys.of(seen, copies, self.num_samples).values.reshape(-1)
        world, whole = self.batch.world_size, self.num_samples // self.batch.global_batch
        whole *= self.batch.global_batch
        batches = list(order[:whole].reshape(-1, world, self.batch_size)[:, self.rank])
        if self.last_batch:
            parts = np.array_split(order[whole : self.num_samples], self.batch.parts)
            batches += parts[self.rank :: world]
        return batches[first_batch:]


@dataclass(frozen=True, kw_only=True)
class EvalPlan:
    """Evaluation: rank r of W takes samples r, r+W, r+2W, ...; nothing is padded, a rank may have none."""

    num_samples: int
    batch_size: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"the evaluation batch must be at least 1, not {self.batch_size}")
        check_rank(self.rank, self.world_size)

    def __len__(self) -> int:
        return -(-len(range(self.rank, self.num_samples, self.world_size)) // self.batch_size)

    def batches(self, epoch: int, first_batch: int = 0) -> list[Indices]:
        """This rank's batches from `first_batch` on; the epoch makes no difference."""
        own = np.arange(self.rank, self.num_samples, self.world_size, dtype=np.int64)
        starts = range(first_batch * self.batch_size, len(own), self.batch_size)
        return [own[start : start + self.batch_size] for start in starts]


def sample_keys(
    plan: Plan, indices: Indices | None, num_stored: int, epoch: int, first_batch: int
) -> list[SampleKeys]:
    """The samples that a loader reads, batch by batch, of a data set of `num_stored`.

    `indices` are the samples that the plan's positions mean (default: all).
    """
    batches = []
    for batch in plan.batches(epoch, first_batch):
        positions = SampleKeys(batch, plan.num_samples)
        chosen = positions.indices if indices is None else indices[positions.indices]
        batches.append(SampleKeys.of(chosen, positions.copies, num_stored))
    return batches


def check_rank(rank: int, world_size: int) -> None:
    """Raise UserError where no process has this rank."""
    if not 0 <= rank < world_size:
        raise UserError(f"rank {rank} does not exist among {world_size} processes")
