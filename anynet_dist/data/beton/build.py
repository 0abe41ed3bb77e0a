"""Write .beton files: the file, the checksums of its images, and its sidecar, which is written last."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anynet_dist.data.beton.build_lock import build_lock
from anynet_dist.data.beton.estimate import check_room, estimate, full_disk_is_named
from anynet_dist.data.beton.format import read_table
from anynet_dist.data.beton.sidecar import Sidecar, checksums_path, describe, sidecar_path
from anynet_dist.data.beton.writer import WriteOptions, compare, write
from anynet_dist.data.workers import usable_cores
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import (
    atomic_path,
    check_outputs,
    regular_target,
    write_json,
)
from anynet_dist.system.progress_bar import ProgressBar

if TYPE_CHECKING:
    from anynet_dist.data.samples import Samples
    from anynet_dist.data.sources import Source

logger = logging.getLogger(__name__)


def check_targets(paths: Iterable[Path], overwrite: bool) -> None:
    """Raise UserError where .beton files cannot be built at `paths` or, without `overwrite`, some file of
    theirs exists already."""
    files = [file for path in paths for file in (path, checksums_path(path), sidecar_path(path))]
    check_outputs(*files, overwrite=overwrite)


@dataclass(frozen=True)
class Origin:
    """Where the images of a file come from."""

    source: str = "custom"
    split: str = "train"
    split_rule: str | None = None
    """How the split came about, where it is not the data set's own."""


def build_source(
    source: Source,
    out_dir: Path,
    options: WriteOptions | None = None,
    *,
    workers: int | None = None,
    check: bool = False,
    overwrite: bool = False,
) -> dict[str, Sidecar]:
    """Write train.beton, val.beton and, where there are such images, test.beton of a source into `out_dir`;
    returns their sidecars by split.

    Raises as `build_beton` does; the files of all splits are looked at before the first image is read.
    """
    check_targets((out_dir / f"{split}.beton" for split in source.splits), overwrite)
    return {
        split: build_beton(
            samples,
            out_dir / f"{split}.beton",
            classes=source.classes,
            options=options,
            workers=workers,
            origin=Origin(source.name, split, source.rules.get(split)),
            check=check,
            overwrite=overwrite,
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
    origin: Origin | None = None,
    check: bool = False,
    overwrite: bool = False,
) -> Sidecar:
    """Write `samples` to `path` with `workers` processes (default: all usable cores), then its sidecar.

    `check` reads every sample once more, before the file gets its name, and compares. Whatever interrupts
    a build, no file is left that looks whole. Raises BetonError that names every bad image (see
    WriteOptions.on_bad_image), and UserError when another build writes this path, the disk is too small or,
    without `overwrite`, a file is there already.
    """
    options = options or WriteOptions()
    _check_labels(samples, classes, path)
    check_targets([path], overwrite)
    sidecar_file = regular_target(sidecar_path(path))
    workers = workers or usable_cores()[0]
    real = regular_target(path)
    with build_lock(real), full_disk_is_named(real):
        check_room(real, estimate(samples, options, workers))
        with atomic_path(path) as temporary:
            with ProgressBar(path.name, len(samples.labels), unit="images") as bar:
                written = write(temporary, samples, options, workers, bar.advance)
            if check:
                with ProgressBar(f"{path.name}, check", len(samples.labels), unit="images") as bar:
                    compare(temporary, samples, options, workers, bar.advance)
            sidecar_file.unlink(missing_ok=True)
        with atomic_path(checksums_path(path)) as temporary:
            temporary.write_bytes(written.checksums.astype("<u4").tobytes())
        sidecar = describe(
            read_table(path),
            classes,
            written.histogram,
            checksums_path(path),
            bad_images=written.bad,
            ffcv_version=_ffcv_version(),
            **asdict(origin or Origin()),
            **_stored_as(options),
        )
        write_json(sidecar_file, sidecar.model_dump(mode="json"))
    if written.bad:
        what = "left out" if options.on_bad_image == "skip" else "stored as black"
        logger.warning("%s: %d bad images, %s:\n  %s", path, len(written.bad), what, "\n  ".join(written.bad))
    logger.info("wrote %s: %d images, %.1f MiB", path, sidecar.num_samples, sidecar.size / 2**20)
    return sidecar


def _check_labels(samples: Samples, classes: tuple[str, ...], path: Path) -> None:
    if len(samples.labels) == 0:
        raise UserError(f"{path}: there are no images to write")
    low, high = int(samples.labels.min()), int(samples.labels.max())
    if low < 0 or high >= len(classes):
        raise UserError(f"{path}: labels run from {low} to {high}, but there are {len(classes)} classes")


def _stored_as(options: WriteOptions) -> dict[str, Any]:
    """The options of a build that its sidecar keeps."""
    kept = ("write_mode", "max_resolution", "quality", "compress_probability", "seed", "on_bad_image")
    return {name: getattr(options, name) for name in kept}


def _ffcv_version() -> str | None:
    try:
        return metadata.version("ffcv")
    except metadata.PackageNotFoundError:
        return None
