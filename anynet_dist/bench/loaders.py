"""How fast the loaders are on the same real images: one run, the loaders in turn, so that noise meets all
alike, each in a process of its own, so that none meets another's threads and memory.

All do the same: random resized crop and flip, or with small images shift and flip; normalised float32
(B, 3, R, R) ready for the model.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from anynet_dist.bench.process import Epoch, LoaderProcess, MakeLoader
from anynet_dist.bench.startup import measure_startup
from anynet_dist.bench.subjects import (
    BARE,
    SMALL_SHIFT,
    Setting,
    bare_loader,
    image_folder_loader,
    our_loader,
    small_pil_loader,
)
from anynet_dist.data.beton.build import build_beton
from anynet_dist.data.beton.writer import WriteMode, WriteOptions
from anynet_dist.data.dataset import Dataset, open_dataset
from anynet_dist.data.loaders.factory import ffcv_installed, install_ffcv
from anynet_dist.data.samples import ArraySamples
from anynet_dist.data.sources import load_source
from anynet_dist.data.workers import choose_workers
from anynet_dist.system.errors import UserError

BASELINE, SMALL_BASELINE = "ImageFolder, PIL", "images in memory, PIL"
MODES: tuple[WriteMode, ...] = ("raw", "proportion", "jpg")
SMALL_EPOCH = 50_000


@dataclass
class Result:
    """Measured epochs of one loader."""

    name: str
    epochs: list[Epoch] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Images of an epoch."""
        return self.epochs[0].images

    @property
    def speed(self) -> float:
        """Images a second, the median epoch."""
        return self.images / statistics.median(epoch.seconds for epoch in self.epochs)

    @property
    def speed_per_cpu(self) -> float:
        """Images a second of CPU time, the median epoch."""
        return self.images / statistics.median(epoch.cpu_seconds for epoch in self.epochs)


def bench_loaders(setting: Setting) -> list[Result]:
    """Measure every loader that is installed: one warm-up epoch each, then `repeats` epochs in turn."""
    folder = _folder(setting)
    if len(folder) < setting.batch_size:
        raise UserError(
            f"{folder.path}: has {len(folder)} images, fewer than one batch of {setting.batch_size}"
        )
    workers = choose_workers(setting.workers, local_world=1)
    with tempfile.TemporaryDirectory(prefix="anynet-bench-") as out:
        makers: dict[str, MakeLoader] = {
            BASELINE: partial(image_folder_loader, folder.path, setting, workers),
            "torch (ours), JPEG files": partial(our_loader, folder.path, "torch", setting, workers),
        }
        for name, path in (_betons(folder, setting, Path(out)) if ffcv_installed() else {}).items():
            makers[f"FFCV, {name}"] = partial(our_loader, path, "ffcv", setting, workers)
            if setting.bare:
                makers[f"bare FFCV, {name}"] = partial(bare_loader, path, setting, workers)
        return _compare(makers, setting.repeats)


def bench_small(setting: Setting) -> list[Result]:
    """Measure every loader that is installed on CIFAR-10: shift by up to 4 pixels, flip.

    A smaller set of such images is repeated to CIFAR-10's 50,000.
    """
    workers = choose_workers(setting.workers, local_world=1)
    with tempfile.TemporaryDirectory(prefix="anynet-bench-") as out:
        path = _small_beton(setting, Path(out))
        makers: dict[str, MakeLoader] = {
            SMALL_BASELINE: partial(small_pil_loader, path, setting, workers),
            "torch (ours), raw": partial(our_loader, path, "torch", setting, workers),
            "device": partial(our_loader, path, "device", setting, workers),
        }
        if ffcv_installed():
            makers["FFCV, raw"] = partial(our_loader, path, "ffcv", setting, workers)
            if setting.bare:
                makers["bare FFCV, raw"] = partial(bare_loader, path, setting, workers)
        return _compare(makers, setting.repeats)


def bench_startup(setting: Setting) -> Table:
    """Measure how long fresh processes take to their first batch of a raw .beton file."""
    workers = choose_workers(setting.workers, local_world=1)
    loaders = ["torch", *(["ffcv"] if ffcv_installed() else [])]
    loaders += [BARE] if ffcv_installed() and setting.bare else []
    with tempfile.TemporaryDirectory(prefix="anynet-bench-") as out:
        if setting.small:
            path = _small_beton(setting, Path(out))
        else:
            path = next(iter(_betons(_folder(setting), setting, Path(out), modes=("raw",)).values()))
        return measure_startup(path, loaders, setting, workers)


def _compare(makers: Mapping[str, MakeLoader], repeats: int) -> list[Result]:
    """Measure loaders by name: a warm-up epoch each, then `repeats` epochs in turn."""
    if not ffcv_installed():
        Console(stderr=True).print(f"FFCV is not installed, so it is not measured; {install_ffcv()}")
    results = [Result(name) for name in makers]
    with ExitStack() as stack:
        processes = []
        for make in makers.values():
            processes.append(LoaderProcess(make))
            stack.callback(processes[-1].close)
        for process in processes:  # all of them, before the first is measured
            process.wait()
        for process in processes:
            process.epoch()
        for _ in range(repeats):
            for result, process in zip(results, processes, strict=True):
                result.epochs.append(process.epoch())
    return results


def table_of(setting: Setting, results: list[Result]) -> Table:
    """The results as a table, with the ratio to the first, PIL."""
    base = results[0]
    small = f"{setting.resolution}x{setting.resolution} pixels, shift {SMALL_SHIFT}"
    crop = f"random resized crop {setting.resolution}"
    change = small if setting.small else crop
    title = f"{change}, flip, float32; batch {setting.batch_size}, {base.images:,} images an epoch"
    table = Table(title=title)
    table.add_column("loader", no_wrap=True)
    for column in ("images/s", "ratio", "images per CPU-second", "ratio"):
        table.add_column(column, justify="right")
    for result in results:
        speed, per_cpu = result.speed, result.speed_per_cpu
        table.add_row(
            result.name,
            f"{speed:,.0f}",
            f"{speed / base.speed:.2f}x",
            f"{per_cpu:,.0f}",
            f"{per_cpu / base.speed_per_cpu:.2f}x",
        )
    return table


def _folder(setting: Setting) -> Dataset:
    return open_dataset(setting.root / "train" if (setting.root / "train").is_dir() else setting.root)


def _betons(
    folder: Dataset, setting: Setting, out: Path, modes: Sequence[WriteMode] = MODES
) -> dict[str, Path]:
    if setting.beton is not None:
        return {setting.beton.name: setting.beton}
    for mode in modes:
        options = WriteOptions(write_mode=mode, max_resolution=setting.max_resolution)
        build_beton(folder.samples, out / f"{mode}.beton", classes=folder.classes, options=options)
    return {f"{mode}, side {setting.max_resolution}": out / f"{mode}.beton" for mode in modes}


def _small_beton(setting: Setting, out: Path) -> Path:
    """At least SMALL_EPOCH images, some of them repeatedly if there are fewer, in a raw .beton file."""
    source = load_source("cifar10", setting.root)
    stored = len(source.train.labels)
    images = np.stack([source.train.image(index) for index in range(stored)])
    wanted = np.arange(max(stored, SMALL_EPOCH)) % stored
    samples = ArraySamples(images[wanted], source.train.labels[wanted])
    build_beton(samples, out / "train.beton", classes=source.classes)
    return out / "train.beton"
