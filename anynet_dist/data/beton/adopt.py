"""Take .beton files that FFCV's own DatasetWriter made: check them, measure their colours, write the sidecar.

The file itself is only read.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anynet_dist.data.beton.format import (
    ARRAY_TYPE,
    IMAGE_TYPE,
    JPEG,
    LABEL_TYPES,
    TENSOR_TYPE,
    BetonError,
    BetonTable,
    Field,
    array_layout,
    read_fields,
    read_table,
)
from anynet_dist.data.beton.sidecar import (
    Sidecar,
    check_pixels,
    checksums_path,
    describe,
    sidecar_path,
    users_folder,
)
from anynet_dist.data.samples import BetonSamples
from anynet_dist.data.worker_pool import map_ranges
from anynet_dist.data.workers import usable_cores
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import (
    atomic_path,
    check_outputs,
    read_regular_file,
    require_regular_file,
    write_json,
)
from anynet_dist.system.progress_bar import ProgressBar

logger = logging.getLogger(__name__)

MOST_MEASURED = 50_000
"""Images that mean and deviation are measured on at most, evenly spaced over the file."""
MOST_CLASSES_BYTES = 2**26


@dataclass(frozen=True)
class Adopted:
    """What is known of a file now, and where that was written."""

    sidecar: Sidecar
    path: Path
    """Of the sidecar."""


def adopt(
    path: Path,
    *,
    classes_file: Path | None = None,
    image_field: str | None = None,
    label_field: str | None = None,
    elsewhere: bool = False,
    workers: int | None = None,
    overwrite: bool = False,
) -> Adopted:
    """Check a .beton file of others and write its sidecar and checksums.

    They lie beside the file or, with `elsewhere` or where its folder cannot be written, in `users_folder`.
    A field that is not named is called image or label, or is the only one that can be meant. Labels may be
    ints, floats without a fraction, or arrays of one number or one-hot. Raises BetonError for a file that
    cannot be used, with every damaged image that is seen, and UserError for class names that do not fit or,
    without `overwrite`, a sidecar that is there already.
    """
    require_regular_file(path)
    if not path.exists():
        raise UserError(f"{path}: no such file")
    folder = _folder(path, elsewhere)
    target = folder / path.name
    check_outputs(sidecar_path(target), checksums_path(target), overwrite=overwrite)
    fields = read_fields(path)
    image = _choose(path, fields, "image", image_field, (IMAGE_TYPE,))
    label = _choose(path, fields, "label", label_field, LABEL_TYPES)
    table = read_table(path, image.name, label.name)
    check_pixels(table)
    classes = _classes(path, _num_classes(table, label), classes_file)
    measured = _measure(table, workers or usable_cores()[0])
    with atomic_path(checksums_path(target)) as temporary:
        temporary.write_bytes(measured.checksums.astype("<u4").tobytes())
    sidecar = _describe(table, label, classes, measured, checksums_path(target))
    write_json(sidecar_path(target), sidecar.model_dump(mode="json"))
    _tell(path, sidecar, fields)
    return Adopted(sidecar, sidecar_path(target))


def _folder(path: Path, elsewhere: bool) -> Path:
    if elsewhere or not os.access(path.parent, os.W_OK | os.X_OK):
        return users_folder(path)
    return path.parent


def _choose(
    path: Path, fields: tuple[Field, ...], usual: str, name: str | None, types: tuple[int, ...]
) -> Field:
    """The field called `name`; or `usual`; or the only one of the types, tried in their order."""
    fitting = [field for field in fields if field.type in types]
    found = [field for field in fitting if field.name == (name or usual)]
    if not found and name is None:
        of_each_type = ([field for field in fitting if field.type == kind] for kind in types)
        found = next((alike for alike in of_each_type if alike), [])
    if len(found) == 1:
        return found[0]
    wanted = "an RGB image" if usual == "image" else "an int, a float or an array"
    said = f"none called '{name}'" if name else f"{'several' if found else 'none'} that may be the {usual}"
    raise BetonError(
        f"{path}: its fields are {', '.join(map(str, fields))}: {said}; name one of {wanted} with "
        f"--{usual}-field"
    )


def _num_classes(table: BetonTable, label: Field) -> int:
    """How many classes there are at least."""
    length = array_layout(table.path, label)[1] if label.type in (ARRAY_TYPE, TENSOR_TYPE) else 0
    return max(length, int(table.labels.max()) + 1)


def _classes(path: Path, count: int, file: Path | None) -> tuple[str, ...]:
    """The names in `file`, or the numbers 0, 1, ... as names."""
    if file is None:
        return tuple(map(str, range(count)))
    classes = _read_classes(file)
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise UserError(f"{file}: class '{twice}' is named twice")
    if len(classes) < count:
        raise UserError(
            f"{file}: names {len(classes)} classes, but the labels in {path} are of at least {count}"
        )
    return classes


def _read_classes(file: Path) -> tuple[str, ...]:
    try:
        text = read_regular_file(file, most=MOST_CLASSES_BYTES).decode()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is no text in UTF-8") from error
    if not text.lstrip().startswith(("[", "{")):
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    try:
        names = json.loads(text)
    except ValueError as error:
        raise UserError(f"{file}: is no JSON: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise UserError(
            f"{file}: expected the classes' names in order: one per line, or a JSON list of strings"
        )
    return tuple(names)


@dataclass(frozen=True)
class _Part:
    """What was found in samples in a row."""

    checksums: list[int]
    histogram: NDArray[np.int64]
    damaged: list[str]


@dataclass(frozen=True)
class _Measured:
    """What was found in all samples."""

    checksums: NDArray[np.uint32]
    histogram: NDArray[np.int64]
    num_measured: int


@dataclass(frozen=True)
class _Inspector:
    """Looks at samples first .. last-1; decodes those that are chosen."""

    samples: BetonSamples
    chosen: NDArray[np.bool_]

    def __call__(self, first: int, last: int) -> _Part:
        part = _Part([], np.zeros((3, 256), np.int64), [])
        for index in range(first, last):
            part.checksums.append(zlib.crc32(self.samples.stored(index)))
            if self.chosen[index]:
                self._add(part, index)
        return part

    def _add(self, part: _Part, index: int) -> None:
        try:
            image = self.samples.image(index)
        except BetonError as error:
            part.damaged.append(str(error).removeprefix(f"{self.samples.table.path}: "))
            return
        for channel in range(3):
            part.histogram[channel] += np.bincount(image[..., channel].reshape(-1), minlength=256)


def _measure(table: BetonTable, workers: int) -> _Measured:
    count = len(table)
    chosen = np.zeros(count, np.bool_)
    chosen[np.linspace(0, count - 1, min(count, MOST_MEASURED)).astype(int)] = True
    samples = BetonSamples(table)
    parts: list[_Part] = []
    with ProgressBar(table.path.name, count, unit="images") as bar:
        for part in map_ranges(_Inspector(samples, chosen), count, workers):
            parts.append(part)
            bar.advance(len(part.checksums))
    damaged = [fault for part in parts for fault in part.damaged]
    if damaged:
        raise BetonError(
            f"{table.path}: {len(damaged)} of {int(chosen.sum())} images looked at are damaged:\n  "
            + "\n  ".join(damaged)
        )
    samples.file.check()
    checksums = np.array([checksum for part in parts for checksum in part.checksums], np.uint32)
    histogram = np.sum([part.histogram for part in parts], axis=0)
    return _Measured(checksums, histogram, int(chosen.sum()))


def _describe(
    table: BetonTable, label: Field, classes: tuple[str, ...], measured: _Measured, checksums: Path
) -> Sidecar:
    jpegs = float((table.modes == JPEG).mean())
    return describe(
        table,
        classes,
        measured.histogram,
        checksums,
        source="another writer",
        split=table.path.stem,
        write_mode={0.0: "raw", 1.0: "jpg"}.get(jpegs, "proportion"),
        max_resolution=None,
        quality=None,
        compress_probability=jpegs,
        seed=0,
        ffcv_version=None,
        adopted=True,
        image_field=table.image_field,
        label_field=label.name,
        labels=tuple(table.labels.tolist()) if label.type in (ARRAY_TYPE, TENSOR_TYPE) else None,
        num_measured=measured.num_measured if measured.num_measured < len(table) else None,
    )


def _tell(path: Path, sidecar: Sidecar, fields: tuple[Field, ...]) -> None:
    """What others may want to know: what is ignored, what was measured, which classes have no images."""
    used = (sidecar.image_field, sidecar.label_field)
    ignored = [str(field) for field in fields if field.name not in used]
    logger.info("%s: images from field '%s', labels from '%s'", path, *used)
    if ignored:
        logger.info("%s: ignored: %s", path, ", ".join(ignored))
    if sidecar.num_measured:
        logger.info(
            "%s: mean and deviation are those of %s of its %s images, evenly spaced",
            *(path, f"{sidecar.num_measured:,}", f"{sidecar.num_samples:,}"),
        )
    empty = [name for name, count in zip(sidecar.classes, sidecar.class_counts, strict=True) if not count]
    if empty:
        more = ", ..." if len(empty) > 10 else ""
        logger.warning("%s: no images of %d classes: %s%s", path, len(empty), ", ".join(empty[:10]), more)
