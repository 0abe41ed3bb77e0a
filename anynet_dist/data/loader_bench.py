"""How fast the loaders are on the same real images: one run, the loaders in turn, so that noise meets all
alike.

All do the same: random resized crop and flip, or with small images shift and flip; normalised float32
(B, 3, R, R) ready for the model.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from anynet_dist.data.augment import Augmentation
from anynet_dist.data.beton import build_beton
from anynet_dist.data.beton_writer import WriteMode, WriteOptions
from anynet_dist.data.loaders import (
    INSTALL_FFCV,
    DataInfo,
    Loader,
    LoaderName,
    ffcv_installed,
    open_dataset,
    train_loader,
)
from anynet_dist.data.samples import ArraySamples, Samples
from anynet_dist.data.sources import load_source
from anynet_dist.data.workers import choose_workers
from anynet_dist.system.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BASELINE, SMALL_BASELINE = "ImageFolder, PIL", "images in memory, PIL"
MODES: tuple[WriteMode, ...] = ("raw", "proportion", "jpg")
SMALL_SHIFT, SMALL_EPOCH = 4, 50_000


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured."""

    root: Path
    """One split (CLASS/IMAGE), or a folder with train/ in it; for `bench_small` that of CIFAR-10."""
    beton: Path | None = None
    """A .beton file of the same images; without one, raw, proportion (half raw, half jpg) and jpg are written
    to a temporary folder."""
    resolution: int = 224
    batch_size: int = 64
    repeats: int = 5
    workers: int | None = None
    bare: bool = False
    """Measure FFCV without our wrapper too; it compiles its pipelines for seconds first."""
    max_resolution: int = 500
    """Longer side of the images in .beton files written here."""


@dataclass
class Result:
    """Measured epochs of one loader."""

    name: str
    images: int = 0
    """Images of an epoch."""
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    @property
    def speed(self) -> float:
        """Images a second, the median epoch."""
        return self.images / statistics.median(self.seconds)

    @property
    def speed_per_cpu(self) -> float:
        """Images a second of CPU time, the median epoch; worker processes count."""
        return self.images / statistics.median(self.cpu_seconds)


def bench_loaders(setting: Setting) -> list[Result]:
    """Measure every loader that is installed: one warm-up epoch each, then `repeats` epochs in turn."""
    root = setting.root / "train" if (setting.root / "train").is_dir() else setting.root
    folder = open_dataset(root)
    if folder.num_samples < setting.batch_size:
        raise UserError(
            f"{root}: has {folder.num_samples} images, fewer than one batch of {setting.batch_size}"
        )
    style = Augmentation(random_resized_crop=True, flip=True)
    workers = choose_workers(setting.workers, local_world=1)
    with ExitStack() as stack:
        torchs = {
            BASELINE: lambda: _image_folder(root, setting, workers),
            "torch (ours), JPEG files": lambda: _ours(folder, "torch", setting, workers, style),
        }
        ffcvs: dict[str, Callable[[], Any]] = {}
        for name, data in (_betons(folder, setting, stack) if ffcv_installed() else {}).items():
            ffcvs[f"FFCV, {name}"] = partial(_ours, data, "ffcv", setting, workers, style)
            if setting.bare:
                ffcvs[f"bare FFCV, {name}"] = partial(_bare, data, setting, workers)
        return _compare(torchs, ffcvs, setting.repeats, stack)


def bench_small(setting: Setting) -> list[Result]:
    """Measure every loader that is installed on CIFAR-10: shift by up to 4 pixels, flip.

    A smaller set of such images is repeated to CIFAR-10's 50,000.
    """
    source = load_source("cifar10", setting.root)
    samples = _in_memory(source.train, SMALL_EPOCH)
    style = Augmentation(translate=SMALL_SHIFT, flip=True)
    workers = choose_workers(setting.workers, local_world=1)
    with ExitStack() as stack:
        out = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anynet-bench-")))
        build_beton(samples, out / "train.beton", classes=source.classes)
        data = open_dataset(out / "train.beton")
        torchs = {
            SMALL_BASELINE: lambda: _small_pil(samples, setting, workers),
            "torch (ours), raw": lambda: _ours(data, "torch", setting, workers, style),
        }
        others: dict[str, Callable[[], Any]] = {}
        others["device"] = lambda: _ours(data, "device", setting, workers, style)
        if ffcv_installed():
            others["FFCV, raw"] = lambda: _ours(data, "ffcv", setting, workers, style)
            if setting.bare:
                others["bare FFCV, raw"] = lambda: _bare(data, setting, workers, shift=SMALL_SHIFT)
        return _compare(torchs, others, setting.repeats, stack)


def _compare(
    torchs: Mapping[str, Callable[[], Any]],
    others: Mapping[str, Callable[[], Any]],
    repeats: int,
    stack: ExitStack,
) -> list[Result]:
    """Measure loaders by name: a warm-up epoch each, then `repeats` epochs in turn."""
    loaders: dict[str, Any] = {}
    # torch's workers first: a process that runs FFCV's threads can no longer be forked
    for makers in (torchs, others):
        for name, make in makers.items():
            loaders[name] = make()
            stack.callback(getattr(loaders[name], "close", lambda: None))
        _measure([Result(name) for name in makers], loaders)
    if not ffcv_installed():
        Console(stderr=True).print(f"FFCV is not installed, so it is not measured; {INSTALL_FFCV}")
    results = [Result(name) for name in loaders]
    for _ in range(repeats):
        _measure(results, loaders)
    return results


def table_of(setting: Setting, results: list[Result]) -> Table:
    """The results as a table, with the ratio to the first, PIL."""
    base = results[0]
    small = f"{setting.resolution}x{setting.resolution} pixels, shift {SMALL_SHIFT}"
    crop = f"random resized crop {setting.resolution}"
    change = small if base.name == SMALL_BASELINE else crop
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


def _betons(folder: DataInfo, setting: Setting, stack: ExitStack) -> dict[str, DataInfo]:
    if setting.beton is not None:
        return {setting.beton.name: open_dataset(setting.beton)}
    out = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anynet-bench-")))
    for mode in MODES:
        options = WriteOptions(write_mode=mode, max_resolution=setting.max_resolution)
        build_beton(folder.samples, out / f"{mode}.beton", classes=folder.classes, options=options)
    return {f"{mode}, side {setting.max_resolution}": open_dataset(out / f"{mode}.beton") for mode in MODES}


def _ours(data: DataInfo, name: LoaderName, setting: Setting, workers: int, style: Augmentation) -> Loader:
    return train_loader(
        data,
        loader=name,
        global_batch=setting.batch_size,
        seed=0,
        resolution=setting.resolution,
        augment=style,
        mean=MEAN,
        std=STD,
        device=torch.device("cpu"),
        workers=workers,
    )


def _bare(data: DataInfo, setting: Setting, workers: int, shift: int = 0) -> Iterable[Any]:
    """FFCV without our wrapper."""
    from anynet_dist.data.bare_ffcv import BareFFCV

    return BareFFCV(
        data.path,
        batch_size=setting.batch_size,
        workers=workers,
        mean=MEAN,
        std=STD,
        resolution=None if shift else setting.resolution,
        shift=shift,
    )


def _image_folder(root: Path, setting: Setting, workers: int) -> Iterable[Any]:
    """What most people use: ImageFolder, Pillow, torchvision's transforms, DataLoader with worker
    processes."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [
        transforms.RandomResizedCrop(setting.resolution),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    return DataLoader(
        ImageFolder(str(root), transforms.Compose(steps)),
        batch_size=setting.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
    )


class _PILImages(Dataset[Any]):
    """Images in memory, handed out as torchvision's CIFAR10 does: by Pillow, one at a time."""

    def __init__(self, samples: ArraySamples, transform: Callable[[Image.Image], Any]) -> None:
        self.samples, self.transform = samples, transform

    def __len__(self) -> int:
        return len(self.samples.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.samples.image(index))), int(self.samples.labels[index])


def _small_pil(samples: ArraySamples, setting: Setting, workers: int) -> Iterable[Any]:
    """What most people use for CIFAR-10."""
    from torchvision import transforms

    steps = [
        transforms.RandomCrop(setting.resolution, padding=SMALL_SHIFT),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    return DataLoader(
        _PILImages(samples, transforms.Compose(steps)),
        batch_size=setting.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
    )


def _in_memory(samples: Samples, count: int) -> ArraySamples:
    """At least `count` samples, some of them repeatedly if there are fewer."""
    stored = len(samples.labels)
    images = np.stack([samples.image(index) for index in range(stored)])
    wanted = np.arange(max(stored, count)) % stored
    return ArraySamples(images[wanted], samples.labels[wanted])


def _measure(results: list[Result], loaders: dict[str, Any]) -> None:
    for result in results:
        result.images, seconds, cpu_seconds = _timed(loaders[result.name])
        result.seconds.append(seconds)
        result.cpu_seconds.append(max(cpu_seconds, 0.01))  # the clock's own step


def _timed(loader: Iterable[Any]) -> tuple[int, float, float]:
    """Images, seconds and CPU seconds of an epoch, those of worker processes included."""
    start, cpu_start = time.perf_counter(), _cpu_seconds()
    images = sum(len(labels) for _, labels in loader)
    return images, time.perf_counter() - start, _cpu_seconds() - cpu_start


def _cpu_seconds() -> float:
    this = psutil.Process(os.getpid())
    total = 0.0
    for process in (this, *this.children(recursive=True)):
        times = process.cpu_times()
        total += times.user + times.system
    return total
