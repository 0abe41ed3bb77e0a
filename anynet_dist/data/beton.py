"""Build, describe and verify .beton files. Beside `train.beton` lies its sidecar `train.beton.json`,
written last."""

from __future__ import annotations

import logging
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from anynet_dist.data.beton_format import BetonError, BetonTable, read_table
from anynet_dist.data.beton_writer import WriteOptions, write
from anynet_dist.data.workers import usable_cores
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import atomic_path, sha256_of, write_json

if TYPE_CHECKING:
    from anynet_dist.data.samples import Samples
    from anynet_dist.data.sources import Source

log = logging.getLogger(__name__)

Channels = tuple[float, float, float]


class Sidecar(BaseModel):
    """What is known of a .beton file beside its own tables."""

    model_config = ConfigDict(frozen=True)

    format_version: int = 1
    source: str
    split: str
    num_samples: int
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    mean: Channels
    """Of the stored pixels, per channel (RGB), in 0..1."""
    std: Channels
    image_shape: tuple[int, int] | None
    """(height, width) when all images are of one size, else None."""
    max_shape: tuple[int, int]
    """Largest height and largest width."""
    write_mode: str
    max_resolution: int | None
    quality: int
    compress_probability: float
    seed: int
    ffcv_version: str | None
    """The FFCV that was installed where the file was built, if one was."""
    size: int
    """Bytes of the file."""
    sha256: str
    """Of the whole file."""
    tables_sha256: str
    """Of everything in it but the images, so that a change there is seen at once."""


def sidecar_path(path: Path) -> Path:
    """Where the sidecar of a .beton file lies."""
    return path.with_name(path.name + ".json")


def build_source(
    source: Source, out_dir: Path, options: WriteOptions | None = None, *, workers: int | None = None
) -> dict[str, Sidecar]:
    """Write train.beton and val.beton of a source into `out_dir`; returns their sidecars by split."""
    return {
        split: build_beton(
            samples,
            out_dir / f"{split}.beton",
            classes=source.classes,
            options=options,
            workers=workers,
            source=source.name,
            split=split,
        )
        for split, samples in source.splits.items()
    }


def build_beton(
    samples: Samples,
    path: Path,
    *,
    classes: tuple[str, ...],
    options: WriteOptions | None = None,
    workers: int | None = None,
    source: str = "custom",
    split: str = "train",
) -> Sidecar:
    """Write `samples` to `path` with `workers` processes (default: all usable cores), then its sidecar.

    Whatever interrupts it, no file is left that looks whole. Raises BetonError that names every unreadable
    image.
    """
    options = options or WriteOptions()
    _check_labels(samples, classes, path)
    workers = workers or usable_cores()[0]
    with atomic_path(path) as temporary:
        histogram = _write_with_progress(temporary, samples, options, workers, label=path.name)
        sidecar_path(path).unlink(missing_ok=True)
    sidecar = _describe(path, histogram, classes, options, source, split)
    write_json(sidecar_path(path), sidecar.model_dump(mode="json"))
    log.info("wrote %s: %d images, %.1f MiB", path, sidecar.num_samples, sidecar.size / 2**20)
    return sidecar


def open_beton(path: Path) -> tuple[BetonTable, Sidecar]:
    """The checked table and sidecar of a .beton file, in milliseconds; raises BetonError."""
    if not path.is_file():
        raise BetonError(f"{path}: no such file; make it with 'anynet data build'")
    table, sidecar = read_table(path), _read_sidecar(path)
    if int(table.labels.max()) >= len(sidecar.classes):
        raise BetonError(
            f"{path}: has label {table.labels.max()}, its sidecar {len(sidecar.classes)} classes"
        )
    found = {
        "size": path.stat().st_size,
        "num_samples": len(table),
        "image_shape": table.constant_shape,
        "tables_sha256": table.tables_sha256,
        "class_counts": tuple(np.bincount(table.labels, minlength=len(sidecar.classes)).tolist()),
    }
    for key, value in found.items():
        if getattr(sidecar, key) != value:
            said = getattr(sidecar, key)
            raise BetonError(
                f"{path}: does not fit its sidecar: {key} is {value}, the sidecar says {said}; build it again"
            )
    return table, sidecar


def verify_beton(path: Path) -> Sidecar:
    """Check the tables and the checksum of the whole file; returns its sidecar, raises BetonError."""
    _, sidecar = open_beton(path)
    if sha256_of(path) != sidecar.sha256:
        raise BetonError(
            f"{path}: its checksum is not the one in its sidecar: the file changed; build it again"
        )
    return sidecar


def _read_sidecar(path: Path) -> Sidecar:
    sidecar = sidecar_path(path)
    try:
        return Sidecar.model_validate_json(sidecar.read_bytes())
    except FileNotFoundError as error:
        raise BetonError(
            f"{path}: its sidecar {sidecar.name} is missing, so its build was interrupted or it was made "
            "elsewhere; build it with 'anynet data build'"
        ) from error
    except (OSError, ValidationError) as error:
        raise BetonError(f"{sidecar}: not a sidecar of this version; build it again: {error}") from error


def _check_labels(samples: Samples, classes: tuple[str, ...], path: Path) -> None:
    if len(samples.labels) == 0:
        raise UserError(f"{path}: there are no images to write")
    low, high = int(samples.labels.min()), int(samples.labels.max())
    if low < 0 or high >= len(classes):
        raise UserError(f"{path}: labels run from {low} to {high}, but there are {len(classes)} classes")


def _write_with_progress(
    path: Path, samples: Samples, options: WriteOptions, workers: int, label: str
) -> NDArray[np.int64]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=len(samples.labels))
        return write(path, samples, options, workers, lambda count: progress.advance(task, count))


class _Rate(ProgressColumn):
    """Images a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f} images/s")


def _describe(
    path: Path,
    histogram: NDArray[np.int64],
    classes: tuple[str, ...],
    options: WriteOptions,
    source: str,
    split: str,
) -> Sidecar:
    table = read_table(path)
    mean, std = _mean_and_std(histogram)
    return Sidecar(
        source=source,
        split=split,
        num_samples=len(table),
        classes=classes,
        class_counts=tuple(np.bincount(table.labels, minlength=len(classes)).tolist()),
        mean=mean,
        std=std,
        image_shape=table.constant_shape,
        max_shape=(int(table.heights.max()), int(table.widths.max())),
        write_mode=options.write_mode,
        max_resolution=options.max_resolution,
        quality=options.quality,
        compress_probability=options.compress_probability,
        seed=options.seed,
        ffcv_version=_ffcv_version(),
        size=path.stat().st_size,
        sha256=sha256_of(path),
        tables_sha256=table.tables_sha256,
    )


def _mean_and_std(histogram: NDArray[np.int64]) -> tuple[Channels, Channels]:
    """Mean and standard deviation per channel, in 0..1, from how often each of 256 values occurs, shape
    (3, 256)."""
    values = np.arange(256) / 255
    total = histogram.sum(axis=1)
    mean = histogram @ values / total
    variance = histogram @ values**2 / total - mean**2
    std = np.sqrt(np.maximum(variance, 0))
    return tuple(mean.tolist()), tuple(std.tolist())


def _ffcv_version() -> str | None:
    try:
        return metadata.version("ffcv")
    except metadata.PackageNotFoundError:
        return None
