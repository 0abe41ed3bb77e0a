"""FFCV's file format (version 2), read and checked with numpy alone.

    header | one descriptor a field | one metadata row a sample | image data | allocation table

Our writer makes files of two fields, image and label. Those of FFCV's DatasetWriter may have more, in any
order and under any name; the label may be an int, a float or an array.

FFCV itself trusts every pointer and size in a file, and a damaged one makes it crash, hang or hand out
wrong pixels. So a file is checked here, in milliseconds, before FFCV sees it. Still, treat .beton files as
trusted input.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anynet_dist.system.errors import UserError

VERSION = 2
FLOAT_TYPE, LABEL_TYPE, IMAGE_TYPE, BYTES_TYPE, ARRAY_TYPE, JSON_TYPE, TENSOR_TYPE = range(7)
TYPE_NAMES = ("float", "int", "RGB image", "bytes", "array", "JSON", "tensor")
STORED_TYPES = (IMAGE_TYPE, BYTES_TYPE, ARRAY_TYPE, JSON_TYPE, TENSOR_TYPE)
"""Fields whose values lie in the data, not in the metadata; the allocation table has an entry for each."""
LABEL_TYPES = (LABEL_TYPE, FLOAT_TYPE, ARRAY_TYPE, TENSOR_TYPE)
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
REGION = np.dtype([("start", "<u8"), ("size", "<u8")])
LAYOUTS = (np.dtype("<f8"), np.dtype("<i8"), IMAGE, REGION, np.dtype("<u8"), REGION, np.dtype("<u8"))
"""What a row of metadata holds of a field, by its type."""
ARRAY_ARGUMENTS = np.dtype([("shape", "<u8", 32), ("type_length", "<u8")])
ALLOCATION = np.dtype([("sample", "<u8"), ("start", "<u8"), ("size", "<u8")])
MOST_CLASSES = 2**20
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


class Field(NamedTuple):
    """One value of each sample."""

    name: str
    type: int
    arguments: bytes
    """What FFCV keeps of the type; the shape and dtype of an array."""

    def __str__(self) -> str:
        return f"{self.name} ({TYPE_NAMES[self.type]})"


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
    fields: tuple[str, ...] = ("image", "label")
    """Names of all fields, in the order of the file."""
    image_field: str = "image"
    """Which of them has the images."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def constant_shape(self) -> tuple[int, int] | None:
        """(height, width) when all images are of one size, else None."""
        height, width = int(self.heights[0]), int(self.widths[0])
        same = bool((self.heights == height).all() and (self.widths == width).all())
        return (height, width) if same else None


def read_fields(path: Path) -> tuple[Field, ...]:
    """The fields of a .beton file; raises BetonError where it is none, or has fields of an unknown type."""
    try:
        with open(path, "rb") as file:
            return _read_fields(path, file, _read_header(path, file, os.fstat(file.fileno()).st_size))
    except OSError as error:
        raise BetonError(f"{path}: cannot be read: {error.strerror}") from error


def read_table(
    path: Path,
    image_field: str = "image",
    label_field: str = "label",
    labels: NDArray[np.int64] | None = None,
) -> BetonTable:
    """Read and check the header and tables of a .beton file; raises BetonError.

    `labels` are taken instead of those in the file, which take long to read where they are arrays.
    """
    try:
        with open(path, "rb") as file:
            return _read(path, file, image_field, label_field, labels)
    except OSError as error:
        raise BetonError(f"{path}: cannot be read: {error.strerror}") from error


def _read(
    path: Path, file: BinaryIO, image_field: str, label_field: str, labels: NDArray[np.int64] | None
) -> BetonTable:
    state = FileState.of(os.fstat(file.fileno()))
    header = _read_header(path, file, state.size)
    fields = _read_fields(path, file, header)
    image = _field_called(path, fields, image_field, (IMAGE_TYPE,), "an RGB image")
    label = _field_called(path, fields, label_field, LABEL_TYPES, "a label: an int, a float or an array")
    row = np.dtype([(field.name, LAYOUTS[field.type]) for field in fields], align=True)
    num_samples, table_start = int(header["num_samples"]), int(header["table_start"])
    num_stored = num_samples * sum(field.type in STORED_TYPES for field in fields)
    metadata_start = HEADER.itemsize + len(fields) * FIELD.itemsize
    metadata_end = metadata_start + num_samples * row.itemsize
    if table_start + num_stored * ALLOCATION.itemsize != state.size or metadata_end > table_start:
        raise _damaged(path, f"its tables for {num_samples} samples do not fit its {state.size} bytes")
    samples = _read_array(file, row, metadata_start, num_samples)
    allocations = _read_array(file, ALLOCATION, table_start, num_stored)
    digest = hashlib.sha256(_read_array(file, np.dtype("u1"), 0, metadata_start))
    digest.update(samples)
    digest.update(allocations)
    images = samples[image.name]
    sizes = _image_sizes(path, images, allocations)
    _check_images(path, images, sizes, metadata_end, table_start)
    if labels is None:
        labels = _labels(path, file, label, samples[label.name], (metadata_end, table_start))
    if len(labels) != num_samples:
        raise BetonError(f"{path}: has {num_samples} samples, but there are {len(labels)} labels for them")
    return BetonTable(
        path=path,
        state=state,
        page_size=int(header["page_size"]),
        labels=labels,
        heights=images["height"].astype(np.int64),
        widths=images["width"].astype(np.int64),
        modes=images["mode"].copy(),
        starts=images["start"].astype(np.int64),
        sizes=sizes.astype(np.int64),
        tables_sha256=digest.hexdigest(),
        fields=tuple(field.name for field in fields),
        image_field=image.name,
    )


def _read_header(path: Path, file: BinaryIO, file_size: int) -> Any:
    if file_size < HEADER.itemsize + FIELD.itemsize:
        raise BetonError(f"{path}: not a whole .beton file: it has only {file_size} bytes")
    header = np.frombuffer(file.read(HEADER.itemsize), HEADER)[0]
    page_size = int(header["page_size"])
    if header["version"] != VERSION or page_size < 1 or page_size & (page_size - 1):
        raise BetonError(f"{path}: not a .beton file of FFCV's format version {VERSION}")
    if file_size < HEADER.itemsize + int(header["num_fields"]) * FIELD.itemsize:
        raise _damaged(path, f"it has {header['num_fields']} fields, but only {file_size} bytes")
    if header["table_start"] == 0:
        raise _damaged(path, "its writer was stopped before the end")
    if header["num_samples"] == 0:
        raise BetonError(f"{path}: holds no samples")
    return header


def _read_fields(path: Path, file: BinaryIO, header: Any) -> tuple[Field, ...]:
    descriptors = _read_array(file, FIELD, HEADER.itemsize, int(header["num_fields"]))
    fields = tuple(
        Field(entry["name"].decode("ascii", "replace"), int(entry["type"]), entry["arguments"].tobytes())
        for entry in descriptors
    )
    names = [field.name for field in fields]
    if len(set(names)) < len(names) or not all(name and name.isprintable() for name in names):
        raise _damaged(path, f"its fields have impossible names: {', '.join(map(repr, names))}")
    for field in fields:
        if field.type >= len(LAYOUTS):
            raise BetonError(
                f"{path}: its field '{field.name}' is of a type of its author's own, so where the other "
                "fields are is unknown; write the file again without it"
            )
    return fields


def _field_called(
    path: Path, fields: tuple[Field, ...], name: str, types: tuple[int, ...], what: str
) -> Field:
    for field in fields:
        if field.name == name and field.type in types:
            return field
    raise BetonError(
        f"{path}: its fields are {', '.join(map(str, fields))}; expected one named '{name}' with {what}; "
        "'anynet data adopt' takes other names"
    )


def _image_sizes(path: Path, images: Any, allocations: Any) -> Any:
    """How many bytes each image takes, by the allocation table, which has an entry for other fields too."""
    taken = allocations[allocations["size"] > 0]
    taken = taken[np.argsort(taken["start"], kind="stable")]
    if len(taken) < len(images):
        raise _damaged(path, f"its allocation table names only {len(taken)} images")
    found = taken[np.minimum(np.searchsorted(taken["start"], images["start"]), len(taken) - 1)]
    wrong = (found["start"] != images["start"]) | (found["sample"] != np.arange(len(images)))
    if wrong.any():
        raise _damaged(
            path,
            f"its allocation table does not have sample {int(wrong.argmax())} where its metadata points",
        )
    return found["size"]


def _check_images(path: Path, images: Any, sizes: Any, first: int, end: int) -> None:
    starts = images["start"]
    outside = (starts < first) | (starts > end) | (sizes > end - np.minimum(starts, end))
    if outside.any():
        raise _damaged(path, f"sample {int(outside.argmax())} lies outside the data")
    bytes_needed = images["height"].astype(np.uint64) * images["width"] * 3
    wrong = (bytes_needed == 0) | (images["mode"] > RAW) | ((images["mode"] == RAW) & (bytes_needed != sizes))
    if wrong.any():
        raise _damaged(path, f"sample {int(wrong.argmax())} has an impossible size or mode")


def _labels(
    path: Path, file: BinaryIO, field: Field, column: Any, data: tuple[int, int]
) -> NDArray[np.int64]:
    """The class numbers; `column` is the field's in the metadata, `data` are the bounds of the data."""
    values = column
    if field.type in (ARRAY_TYPE, TENSOR_TYPE):
        values = _array_labels(path, file, field, column, data)
    whole = np.isfinite(values) & (values >= 0) & (values < 2**53) & (values == np.floor(values))
    if not whole.all():
        first = int(whole.argmin())
        what = "a negative label" if values[first] < 0 else f"the label {values[first]}"
        raise BetonError(f"{path}: sample {first} has {what}; a label is the number of a class, from 0")
    return values.astype(np.int64)


def _array_labels(path: Path, file: BinaryIO, field: Field, starts: Any, data: tuple[int, int]) -> Any:
    """Class numbers kept as arrays: of one number, or one-hot."""
    dtype, length = array_layout(path, field)
    size = dtype.itemsize * length
    outside = (starts < data[0]) | (starts > max(0, data[1] - size))
    if outside.any():
        raise _damaged(path, f"the label of sample {int(outside.argmax())} lies outside the data")
    labels = np.empty(len(starts), np.float64)
    for index in np.argsort(starts, kind="stable").tolist():
        values = _read_array(file, dtype, int(starts[index]), length)
        labels[index] = values[0] if length == 1 else np.argmax(values)
        if length > 1 and not (values.max() == 1 and np.count_nonzero(values) == 1):
            raise BetonError(
                f"{path}: the label of sample {index} is not one-hot: '{field.name}' must be 1 for one "
                f"of the {length} classes and 0 for the others"
            )
    return labels


def array_layout(path: Path, field: Field) -> tuple[np.dtype[Any], int]:
    """The type of an array's values, and how many there are."""
    arguments = np.frombuffer(field.arguments, ARRAY_ARGUMENTS, 1)[0]
    text = field.arguments[ARRAY_ARGUMENTS.itemsize :][: int(arguments["type_length"])]
    try:
        ((_, name),) = json.loads(text)
        dtype = np.dtype(str(name))
    except (ValueError, TypeError) as error:
        raise _damaged(path, f"field '{field.name}' has values of no known type") from error
    length = math.prod(int(side) for side in arguments["shape"] if side)
    if dtype.kind not in "biuf" or length > MOST_CLASSES:
        raise BetonError(f"{path}: field '{field.name}' cannot be a label: it has {length} values of {dtype}")
    return dtype, length


def _read_array(file: BinaryIO, dtype: np.dtype[Any], start: int, count: int) -> Any:
    file.seek(start)
    return np.frombuffer(file.read(count * dtype.itemsize), dtype)


def _damaged(path: Path, reason: str) -> BetonError:
    return BetonError(f"{path}: damaged or incomplete: {reason}; build it again with 'anynet data build'")
