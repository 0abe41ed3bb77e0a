"""Advice on how to store a data set: each profile is tried on a sample of the images, and held against this
machine's disk, memory and cores."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil

from anynet_dist.data.beton.build import build_beton
from anynet_dist.data.beton.estimate import MOST_SAMPLED, estimate
from anynet_dist.data.beton.profiles import PROFILES
from anynet_dist.data.dataset import open_dataset
from anynet_dist.data.decoding import Pixels
from anynet_dist.data.loaders.base import Placement
from anynet_dist.data.loaders.factory import train_loader
from anynet_dist.data.samples import Opened, Samples
from anynet_dist.data.transforms.augmentation import Augmentation
from anynet_dist.data.workers import usable_cores

if TYPE_CHECKING:
    from anynet_dist.data.sources import Source

RESOLUTION = 224
MEASURED_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What there is to store and read with."""

    disk_free: int
    """Bytes, where the files are to lie."""
    memory: int
    """Bytes that the page cache can take."""
    cores: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a profile costs for one data set on one machine."""

    profile: str
    max_resolution: int
    num_samples: int
    size: int
    """Bytes of all files."""
    build_seconds: float
    rate_per_core: float
    """Images a second that one core makes ready for training: a random crop, 224x224, float32."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a profile fits a machine."""

    cost: Cost
    fits_disk: bool
    fits_memory: bool
    rate: float
    """Images a second of all cores."""
    fast_enough: bool

    def disk_rate(self, images_per_second: float | None) -> float:
        """Bytes a second to read at that rate (default: the highest possible) when nothing is cached."""
        rate = self.rate if images_per_second is None else min(self.rate, images_per_second)
        return rate * self.cost.size / self.cost.num_samples


def this_machine(out_dir: Path) -> Machine:
    """The disk that `out_dir` lies on or would, the memory that is free or cache, the cores we may use."""
    existing = next(folder for folder in (out_dir.absolute(), *out_dir.absolute().parents) if folder.exists())
    return Machine(
        disk_free=shutil.disk_usage(existing).free,
        memory=psutil.virtual_memory().available,
        cores=usable_cores()[0],
    )


def measure_costs(source: Source, workers: int) -> list[Cost]:
    """Write up to 256 of the training images in each profile into a temporary folder and read them by one
    core; sizes and build times are those of both splits, with `workers` processes."""
    few = _Few(source.train)
    with tempfile.TemporaryDirectory() as folder:
        return [_measure(name, few, source, workers, Path(folder)) for name in PROFILES]


def _measure(name: str, few: _Few, source: Source, workers: int, folder: Path) -> Cost:
    options, path = PROFILES[name].options, folder / f"{name}.beton"
    assert options.max_resolution is not None
    expected = [estimate(samples, options, workers) for samples in source.splits.values()]
    build_beton(few, path, classes=source.classes, options=replace(options, on_bad_image="skip"), workers=1)
    return Cost(
        profile=name,
        max_resolution=options.max_resolution,
        num_samples=sum(part.num_samples for part in expected),
        size=sum(part.size for part in expected),
        build_seconds=sum(part.seconds for part in expected),
        rate_per_core=_rate(path),
    )


def _rate(path: Path) -> float:
    """Images a second that one worker makes ready from a file in the page cache."""
    data = open_dataset(path)
    loader = train_loader(
        data,
        min(64, len(data)),
        Augmentation(random_resized_crop=True, flip=True),
        resolution=RESOLUTION,
        placement=Placement(workers=1),
    )
    try:
        sum(len(labels) for _, labels in loader)  # compiles, and starts what needs starting
        images, epoch, start = 0, 1, time.perf_counter()
        while time.perf_counter() - start < MEASURED_SECONDS:
            loader.set_epoch(epoch)
            images += sum(len(labels) for _, labels in loader)
            epoch += 1
        return images / (time.perf_counter() - start)
    finally:
        loader.close()


class _Few(Samples):
    """Up to 256 samples, spread over the data."""

    def __init__(self, samples: Samples) -> None:
        count = len(samples.labels)
        self.samples = samples
        self.chosen = np.linspace(0, count - 1, min(count, MOST_SAMPLED)).astype(np.int64)
        self.labels = samples.labels[self.chosen]

    def image(self, index: int) -> Pixels:
        return self.samples.image(int(self.chosen[index]))

    def name(self, index: int) -> str:
        return self.samples.name(int(self.chosen[index]))

    def opened(self, index: int) -> Opened:
        return self.samples.opened(int(self.chosen[index]))


def judge(costs: Sequence[Cost], machine: Machine, images_per_second: float | None) -> list[Verdict]:
    """Hold each cost against the machine; `images_per_second` is what all devices together want."""
    return [
        Verdict(
            cost=cost,
            fits_disk=cost.size <= machine.disk_free,
            fits_memory=cost.size <= machine.memory,
            rate=cost.rate_per_core * machine.cores,
            fast_enough=images_per_second is None or cost.rate_per_core * machine.cores >= images_per_second,
        )
        for cost in costs
    ]


def advise(verdicts: Sequence[Verdict], images_per_second: float | None) -> tuple[Verdict | None, str]:
    """The profile to take, or None when none fits on the disk, and why.

    Those that fit into the page cache are preferred. With a target, of those that reach it the one of highest
    resolution is taken, then the smallest; without one, or when none reaches it, the fastest.
    """
    possible = [verdict for verdict in verdicts if verdict.fits_disk]
    if not possible:
        return None, "none fits on the disk"
    for group, where in (
        ([verdict for verdict in possible if verdict.fits_memory], "fit into the page cache"),
        (possible, "fit on the disk, but not into the page cache"),
    ):
        enough = [verdict for verdict in group if verdict.fast_enough]
        if images_per_second is not None and enough:
            best = max(enough, key=lambda verdict: (verdict.cost.max_resolution, -verdict.cost.size))
            return best, f"of those that are fast enough and {where}, the most detailed, then the smallest"
        if images_per_second is None and group:
            return max(group, key=_rate_of), f"the fastest of those that {where}"
    return max(possible, key=_rate_of), "the fastest that fits on the disk, though not fast enough"


def _rate_of(verdict: Verdict) -> float:
    return verdict.rate
