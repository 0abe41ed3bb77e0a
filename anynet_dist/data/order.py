"""Which sample goes where: a function of (seed, epoch) alone, the same for any loader and any number of
ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

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


class Plan(Protocol):
    """What one rank reads in an epoch: batches of sample positions."""

    @property
    def num_samples(self) -> int:
        """Samples of all ranks. Position p is sample p % num_samples, for the p // num_samples-th time."""

    @property
    def batch_size(self) -> int:
        """Samples of a batch; those at the end of an epoch may have fewer."""

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch."""

    def batches(self, epoch: int, first_batch: int = 0) -> list[Indices]:
        """The batches of this rank from `first_batch` on: positions of samples, each of shape (B,)."""


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """Training: rank r of W takes its slice of every global batch.

    Global batch k is order[k*G : (k+1)*G]. With A micro-batches an update, rank r takes of it, as
    micro-batch m, the slice [(m*W + r)*D : (m*W + r + 1)*D], where D = G / (W*A). A last global batch that is
    incomplete is dropped, or cut in the same way into W*A parts as equal as can be.
    """

    num_samples: int
    global_batch: int
    seed: int
    accumulation: int = 1
    rank: int = 0
    world: int = 1
    repeats: int = 1
    """Repeated augmentation (Hoffer et al. 2019, "Augment your batch"): so many differently augmented copies
    of a sample lie side by side in a global batch. An epoch keeps its length and so sees 1/repeats of the
    samples."""
    drop_last: bool = True
    """Leave out the samples of an epoch that do not fill a global batch."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UserError(f"repeats must be at least 1, not {self.repeats}")
        if self.global_batch < 1 or self.accumulation < 1:
            raise UserError("the global batch and the accumulation must be at least 1")
        _check_rank(self.rank, self.world)
        if self.global_batch % (self.world * self.accumulation):
            raise UserError(
                f"a global batch of {self.global_batch} does not divide among {self.world} processes x "
                f"{self.accumulation} accumulation steps; "
                f"choose a multiple of {self.world * self.accumulation}"
            )
        if self.num_samples < self.global_batch and self.drop_last:
            raise UserError(
                f"the training set has {self.num_samples} samples, fewer than one global batch of "
                f"{self.global_batch}; choose a smaller global batch"
            )
        if 0 < self.last_batch < self.world * self.accumulation:
            raise UserError(
                f"the last global batch of an epoch has {self.last_batch} samples, fewer than the "
                f"{self.world} processes x {self.accumulation} accumulation steps that share it; drop it "
                "(drop_last), or choose another global batch"
            )

    @property
    def batch_size(self) -> int:
        """Samples of a micro-batch on one device."""
        return self.global_batch // (self.world * self.accumulation)

    @property
    def last_batch(self) -> int:
        """Samples of an incomplete last global batch; 0 where there is none, or it is dropped."""
        return 0 if self.drop_last else self.num_samples % self.global_batch

    @property
    def num_updates(self) -> int:
        """Global batches, that is optimizer updates, in an epoch."""
        return self.num_samples // self.global_batch + bool(self.last_batch)

    def __len__(self) -> int:
        return self.num_updates * self.accumulation

    def batches(self, epoch: int, first_batch: int = 0) -> list[Indices]:
        """This rank's micro-batches from `first_batch` on."""
        order = epoch_order(self.num_samples, self.seed, epoch)
        if self.repeats > 1:
            copies = np.arange(self.repeats) * self.num_samples
            order = (order[: -(-self.num_samples // self.repeats), None] + copies).reshape(-1)
        whole = self.num_samples // self.global_batch * self.global_batch
        batches = list(order[:whole].reshape(-1, self.world, self.batch_size)[:, self.rank])
        if self.last_batch:
            parts = np.array_split(order[whole : self.num_samples], self.world * self.accumulation)
            batches += parts[self.rank :: self.world]
        return batches[first_batch:]


@dataclass(frozen=True, kw_only=True)
class EvalPlan:
    """Evaluation: rank r of W takes samples r, r+W, r+2W, ...; nothing is padded, a rank may have none."""

    num_samples: int
    batch_size: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"the evaluation batch must be at least 1, not {self.batch_size}")
        _check_rank(self.rank, self.world)

    def __len__(self) -> int:
        return -(-len(range(self.rank, self.num_samples, self.world)) // self.batch_size)

    def batches(self, epoch: int, first_batch: int = 0) -> list[Indices]:
        """This rank's batches from `first_batch` on; the epoch makes no difference."""
        share = np.arange(self.rank, self.num_samples, self.world, dtype=np.int64)
        starts = range(first_batch * self.batch_size, len(share), self.batch_size)
        return [share[start : start + self.batch_size] for start in starts]


def sample_keys(
    plan: Plan, indices: Indices | None, num_stored: int, epoch: int, first_batch: int
) -> list[Indices]:
    """What a loader reads, batch by batch: key % num_stored is the index of the sample in its data set.

    A key is that index itself, unless the plan repeats samples: each copy has a key of its own, from which
    its augmentation is drawn. `indices` are the samples that the plan's positions mean (default: all).
    """
    keys = []
    for batch in plan.batches(epoch, first_batch):
        copies, places = np.divmod(batch, plan.num_samples)
        keys.append((places if indices is None else indices[places]) + copies * num_stored)
    return keys


def _check_rank(rank: int, world: int) -> None:
    if not 0 <= rank < world:
        raise UserError(f"rank {rank} does not exist among {world} processes")
