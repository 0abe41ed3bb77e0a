"""How fast the loaders are on the same real images: one run, the loaders in turn, so that noise meets all
alike.

All do the same: random resized crop, flip, normalised float32 (B, 3, R, R) ready for the model.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from anynet_dist.data.augment import Augmentation
from anynet_dist.data.beton import build_beton
from anynet_dist.data.beton_writer import WriteOptions
from anynet_dist.data.loaders import (
    INSTALL_FFCV,
    DataInfo,
    Loader,
    LoaderName,
    ffcv_installed,
    open_dataset,
    train_loader,
)
from anynet_dist.data.workers import choose_workers
from anynet_dist.system.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BASELINE = "ImageFolder, PIL"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured."""

    root: Path
    """One split (CLASS/IMAGE), or a folder with train/ in it."""
    beton: Path | None = None
    """A .beton file of the same images; without one, raw and jpg are written to a temporary folder."""
    resolution: int = 224
    batch_size: int = 64
    repeats: int = 5
    workers: int | None = None
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
    workers = choose_workers(setting.workers, local_world=1)
    with ExitStack() as stack:
        # torch's workers first: a process that runs FFCV's threads can no longer be forked
        loaders: dict[str, Any] = {BASELINE: _image_folder(root, setting, workers)}
        loaders["torch (ours), JPEG files"] = stack.enter_context(
            _Closing(_ours(folder, "torch", setting, workers))
        )
        results = [Result(name) for name in loaders]
        _measure(results, loaders, warm_up=True)
        if ffcv_installed():
            for name, data in _betons(folder, setting, stack).items():
                loaders[f"FFCV, {name}"] = stack.enter_context(
                    _Closing(_ours(data, "ffcv", setting, workers))
                )
                results.append(Result(f"FFCV, {name}"))
            _measure(results[2:], loaders, warm_up=True)
        else:
            Console(stderr=True).print(f"FFCV is not installed, so it is not measured; {INSTALL_FFCV}")
        for _ in range(setting.repeats):
            _measure(results, loaders)
    return results


def table_of(setting: Setting, results: list[Result]) -> Table:
    """The results as a table, with the ratio to PIL."""
    title = f"random resized crop {setting.resolution}, flip, float32; batch {setting.batch_size}"
    table = Table("loader", title=title)
    for column in ("images/s", "ratio", "images per CPU-second", "ratio"):
        table.add_column(column, justify="right")
    base = next(result for result in results if result.name == BASELINE)
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


class _Closing(ExitStack):
    """A loader that is closed at the end of the `with`."""

    def __init__(self, loader: Loader) -> None:
        super().__init__()
        self.loader = loader
        self.callback(loader.close)

    def __enter__(self) -> Any:
        super().__enter__()
        return self.loader


def _betons(folder: DataInfo, setting: Setting, stack: ExitStack) -> dict[str, DataInfo]:
    if setting.beton is not None:
        return {setting.beton.name: open_dataset(setting.beton)}
    out = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anynet-bench-")))
    for mode in ("raw", "jpg"):
        options = WriteOptions(write_mode=mode, max_resolution=setting.max_resolution)
        build_beton(folder.samples, out / f"{mode}.beton", classes=folder.classes, options=options)
    return {
        f"{mode} (longer side {setting.max_resolution})": open_dataset(out / f"{mode}.beton")
        for mode in ("raw", "jpg")
    }


def _ours(data: DataInfo, name: LoaderName, setting: Setting, workers: int) -> Loader:
    return train_loader(
        data,
        loader=name,
        global_batch=setting.batch_size,
        seed=0,
        resolution=setting.resolution,
        augment=Augmentation(random_resized_crop=True, flip=True),
        mean=MEAN,
        std=STD,
        device=torch.device("cpu"),
        workers=workers,
    )


def _image_folder(root: Path, setting: Setting, workers: int) -> Iterable[Any]:
    """What most people use: ImageFolder, Pillow, torchvision's transforms, DataLoader with worker
    processes."""
    from torch.utils.data import DataLoader
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


def _measure(results: list[Result], loaders: dict[str, Any], warm_up: bool = False) -> None:
    for result in results:
        result.images, seconds, cpu_seconds = _timed(loaders[result.name])
        if not warm_up:
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
