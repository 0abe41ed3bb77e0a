"""The sidecar of a .beton file: what is known of it beside its own tables.

Beside `train.beton` lie `train.beton.crc32`, a checksum of each image, and its sidecar `train.beton.json`,
written last. Those of a file that others wrote may lie in another folder: see `users_folder`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from anynet_dist.data.beton.format import BetonError, BetonTable, read_fields, read_table
from anynet_dist.data.decoding import LIMIT_VARIABLE, pixel_limit
from anynet_dist.system.cache import cache_folder
from anynet_dist.system.files import require_regular_file, sha256_of

FOLDER_VARIABLE = "ANYNET_SIDECARS"

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
    quality: int | None
    """Of the JPEGs; None where it is not known."""
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
    checksums_sha256: str | None = None
    """Of the file with a checksum of each image; None where there is none."""
    on_bad_image: str = "stop"
    bad_images: tuple[str, ...] = ()
    """Images left out (skip) or stored as black (black), each with the reason."""
    split_rule: str | None = None
    """How the split came about: from a folder, or drawn with which fractions and seed; None where it is the
    data set's own."""
    adopted: bool = False
    """Whether others wrote the file, and only the sidecar is ours."""
    image_field: str = "image"
    label_field: str = "label"
    labels: tuple[int, ...] | None = None
    """Class numbers, where the file holds them as arrays, which take long to read; else None."""
    num_measured: int | None = None
    """Of how many images mean and deviation are; None for all."""

    @property
    def remedy(self) -> str:
        """What to do when the file is not what it was."""
        return (
            "adopt it again if the change was meant"
            if self.adopted
            else "build it again with 'anynet data build'"
        )


def sidecar_path(path: Path) -> Path:
    """Where the sidecar of a .beton file is written: beside it."""
    return path.with_name(path.name + ".json")


def checksums_path(path: Path) -> Path:
    """Where the checksums of a .beton file's images are written: CRC-32, 4 bytes each (little-endian), in
    order."""
    return path.with_name(path.name + ".crc32")


def companions(path: Path) -> tuple[Path, Path]:
    """The sidecar and the checksums to read: beside the file, unless only the user's folder has a sidecar."""
    elsewhere = sidecar_path(users_folder(path) / path.name)
    if not sidecar_path(path).exists() and elsewhere.exists():
        return elsewhere, checksums_path(users_folder(path) / path.name)
    return sidecar_path(path), checksums_path(path)


def users_folder(path: Path) -> Path:
    """Where the user's sidecar of a file lies that has none beside it, such as a file in a read-only folder:
    below ANYNET_SIDECARS, by default `sidecars` in the cache folder, in a folder for the file's full path."""
    folder = Path(os.environ.get(FOLDER_VARIABLE) or cache_folder() / "sidecars")
    return folder / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]


def open_beton(path: Path) -> tuple[BetonTable, Sidecar]:
    """The checked table and sidecar of a .beton file, in milliseconds; raises BetonError."""
    for file in (path, *companions(path)):
        require_regular_file(file)
    if not path.exists():
        raise BetonError(f"{path}: no such file; make it with 'anynet data build'")
    sidecar = _read_sidecar(path)
    labels = None if sidecar.labels is None else np.array(sidecar.labels, np.int64)
    table = read_table(path, sidecar.image_field, sidecar.label_field, labels)
    check_pixels(table)
    if int(table.labels.max()) >= len(sidecar.classes):
        raise BetonError(
            f"{path}: has label {table.labels.max()}, its sidecar {len(sidecar.classes)} classes"
        )
    found = {
        "size": path.stat().st_size,
        "num_samples": len(table),
        "image_shape": table.constant_shape,
        "tables_sha256": table.tables_sha256,
        "class_counts": class_counts(table, sidecar.classes),
    }
    for key, value in found.items():
        if getattr(sidecar, key) != value:
            said = getattr(sidecar, key)
            raise BetonError(
                f"{path}: does not fit its sidecar: {key} is {value}, the sidecar says {said}; "
                f"{sidecar.remedy}"
            )
    return table, sidecar


def _read_sidecar(path: Path) -> Sidecar:
    sidecar, _ = companions(path)
    try:
        return Sidecar.model_validate_json(sidecar.read_bytes())
    except FileNotFoundError as error:
        read_fields(path)  # is it a .beton file at all?
        raise BetonError(
            f"{path}: its sidecar {sidecar.name} is missing: build the file again with 'anynet data build' "
            f"if its build was interrupted; if FFCV's own writer made it, 'anynet data adopt {path}' makes "
            "the sidecar"
        ) from error
    except (OSError, ValidationError) as error:
        raise BetonError(f"{sidecar}: not a sidecar of this version; build it again: {error}") from error


def class_counts(table: BetonTable, classes: Sequence[str]) -> tuple[int, ...]:
    """How many images each class has."""
    return tuple(np.bincount(table.labels, minlength=len(classes)).tolist())


def check_pixels(table: BetonTable) -> None:
    """Refuse images that would exhaust the memory when decoded; `data build` stores none."""
    pixels = table.heights * table.widths
    largest = int(pixels.argmax())
    if pixels[largest] > pixel_limit():
        raise BetonError(
            f"{table.path}: sample {largest}: {table.widths[largest]}x{table.heights[largest]} pixels exceed "
            f"the limit of {pixel_limit()}; {LIMIT_VARIABLE} sets another"
        )


def describe(
    table: BetonTable,
    classes: tuple[str, ...],
    histogram: NDArray[np.int64],
    checksums: Path,
    **facts: Any,
) -> Sidecar:
    """The sidecar of a file whose checksums are written: what its tables, the histogram of its pixels
    (3, 256) and `facts`, the other fields, say."""
    mean, std = mean_and_std(histogram)
    return Sidecar(
        num_samples=len(table),
        classes=classes,
        class_counts=class_counts(table, classes),
        mean=mean,
        std=std,
        image_shape=table.constant_shape,
        max_shape=(int(table.heights.max()), int(table.widths.max())),
        size=table.state.size,
        sha256=sha256_of(table.path),
        tables_sha256=table.tables_sha256,
        checksums_sha256=sha256_of(checksums),
        **facts,
    )


def mean_and_std(histogram: NDArray[np.int64]) -> tuple[Channels, Channels]:
    """Mean and standard deviation per channel, in 0..1, from how often each of 256 values occurs, shape
    (3, 256)."""
    values = np.arange(256) / 255
    total = histogram.sum(axis=1)
    mean = histogram @ values / total
    variance = histogram @ values**2 / total - mean**2
    std = np.sqrt(np.maximum(variance, 0))
    return tuple(mean.tolist()), tuple(std.tolist())
