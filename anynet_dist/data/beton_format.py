"""FFCV's file format (version 2), read and checked with numpy alone.

    header | one descriptor a field | one metadata row a sample | image data | allocation table

FFCV itself trusts every pointer and size in a file, and a damaged one makes it crash, hang or hand out
wrong pixels. So a file is checked here, in milliseconds, before FFCV sees it. Still, treat .beton files as
trusted input.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anynet_dist.system.errors import UserError

VERSION = 2
LABEL_TYPE, IMAGE_TYPE = 1, 2
JPEG, RAW = 0, 1
FIELDS = (("image", IMAGE_TYPE), ("label", LABEL_TYPE))

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("table_start", "<u8"),
    ]
)
FIELD = np.dtype([("type", "u1"), ("name", "S16"), ("arguments", "u1", (1024,))])
IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("start", "<u8")])
SAMPLE = np.dtype([("image", IMAGE), ("label", "<i8")], align=True)
ALLOCATION = np.dtype([("sample", "<u8"), ("start", "<u8"), ("size", "<u8")])
METADATA_START = HEADER.itemsize + len(FIELDS) * FIELD.itemsize


class BetonError(UserError):
    """A .beton file that is damaged, incomplete, foreign or does not fit its sidecar."""


class FileState(NamedTuple):
    """What shows that a file was written to."""

    size: int
    modified: int
    """Nanoseconds since 1970."""

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """The state that a stat call found."""
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class BetonTable:
    """What a .beton file says about its samples; every array has shape (num_samples,), in the order of the
    samples."""

    path: Path
    state: FileState
    """Of the file when it was read."""
    page_size: int
    labels: NDArray[np.int64]
    heights: NDArray[np.int64]
    widths: NDArray[np.int64]
    modes: NDArray[np.uint8]
    """JPEG or RAW."""
    starts: NDArray[np.int64]
    """Where in the file the image's bytes start."""
    sizes: NDArray[np.int64]
    """How many bytes the image takes."""
    tables_sha256: str
    """Of everything but the images: header, descriptors, metadata, allocation table."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def constant_shape(self) -> tuple[int, int] | None:
        """(height, width) when all images are of one size, else None."""
        height, width = int(self.heights[0]), int(self.widths[0])
        same = bool((self.heights == height).all() and (self.widths == width).all())
        return (height, width) if same else None


def read_table(path: Path) -> BetonTable:
    """Read and check the header and tables of a .beton file of images and labels; raises BetonError."""
    try:
        with open(path, "rb") as file:
            return _read(path, file, FileState.of(os.fstat(file.fileno())))
    except OSError as error:
        raise BetonError(f"{path}: cannot be read: {error.strerror}") from error


def _read(path: Path, file: BinaryIO, state: FileState) -> BetonTable:
    header = _read_header(path, file, state.size)
    num_samples, table_start = int(header["num_samples"]), int(header["table_start"])
    _check_fields(path, file)
    metadata_end = METADATA_START + num_samples * SAMPLE.itemsize
    if table_start + num_samples * ALLOCATION.itemsize != state.size or metadata_end > table_start:
        raise _damaged(path, f"its tables for {num_samples} samples do not fit its {state.size} bytes")
    samples = _read_array(file, SAMPLE, METADATA_START, num_samples)
    allocations = _read_array(file, ALLOCATION, table_start, num_samples)
    digest = hashlib.sha256(_read_array(file, np.dtype("u1"), 0, METADATA_START))
    digest.update(samples)
    digest.update(allocations)
    allocations = allocations[np.argsort(allocations["sample"], kind="stable")]
    _check_allocations(path, samples, allocations, metadata_end, table_start)
    return BetonTable(
        path=path,
        state=state,
        page_size=int(header["page_size"]),
        labels=samples["label"].astype(np.int64),
        heights=samples["image"]["height"].astype(np.int64),
        widths=samples["image"]["width"].astype(np.int64),
        modes=samples["image"]["mode"].copy(),
        starts=allocations["start"].astype(np.int64),
        sizes=allocations["size"].astype(np.int64),
        tables_sha256=digest.hexdigest(),
    )


def _read_header(path: Path, file: BinaryIO, file_size: int) -> Any:
    if file_size < METADATA_START:
        raise BetonError(f"{path}: not a whole .beton file: it has only {file_size} bytes")
    header = np.frombuffer(file.read(HEADER.itemsize), HEADER)[0]
    page_size = int(header["page_size"])
    if header["version"] != VERSION or page_size < 1 or page_size & (page_size - 1):
        raise BetonError(f"{path}: not a .beton file of FFCV's format version {VERSION}")
    if header["table_start"] == 0:
        raise _damaged(path, "its writer was stopped before the end")
    if header["num_fields"] != len(FIELDS):
        raise BetonError(
            f"{path}: has {header['num_fields']} fields, not the two of an image classifier: image, label"
        )
    if header["num_samples"] == 0:
        raise BetonError(f"{path}: holds no samples")
    return header


def _check_fields(path: Path, file: BinaryIO) -> None:
    fields = np.frombuffer(file.read(len(FIELDS) * FIELD.itemsize), FIELD)
    found = tuple((field["name"].decode("ascii", "replace"), int(field["type"])) for field in fields)
    if found != FIELDS:
        names = ", ".join(f"{name} (type {kind})" for name, kind in found)
        raise BetonError(
            f"{path}: its fields are {names}; expected an RGB image named 'image', an int named 'label'"
        )


def _check_allocations(path: Path, samples: Any, allocations: Any, first: int, end: int) -> None:
    images, starts, sizes = samples["image"], allocations["start"], allocations["size"]
    if (allocations["sample"] != np.arange(len(samples))).any():
        raise _damaged(path, "its allocation table does not name every sample once")
    if (images["start"] != starts).any():
        raise _damaged(path, "its allocation table points elsewhere than its metadata")
    outside = (starts < first) | (starts > end) | (sizes > end - np.minimum(starts, end)) | (sizes == 0)
    if outside.any():
        raise _damaged(path, f"sample {int(outside.argmax())} lies outside the data")
    bytes_needed = images["height"].astype(np.uint64) * images["width"] * 3
    wrong = (bytes_needed == 0) | (images["mode"] > RAW) | ((images["mode"] == RAW) & (bytes_needed != sizes))
    if wrong.any():
        raise _damaged(path, f"sample {int(wrong.argmax())} has an impossible size or mode")
    if (samples["label"] < 0).any():
        raise _damaged(path, f"sample {int((samples['label'] < 0).argmax())} has a negative label")


def _read_array(file: BinaryIO, dtype: np.dtype[Any], start: int, count: int) -> Any:
    file.seek(start)
    return np.frombuffer(file.read(count * dtype.itemsize), dtype)


def _damaged(path: Path, reason: str) -> BetonError:
    return BetonError(f"{path}: damaged or incomplete: {reason}; build it again with 'anynet data build'")
