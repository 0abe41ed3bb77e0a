"""Labelled images by index, wherever they lie: in memory, in a folder, in a .beton file."""

from __future__ import annotations

import io
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from anynet_dist.data.beton.file import BetonFile
from anynet_dist.data.beton.format import JPEG, BetonError, BetonTable
from anynet_dist.data.beton.jpeg_header import jpeg_size
from anynet_dist.data.decoding import (
    Pixels,
    checked_jpeg_size,
    decode,
    decode_rows,
    open_image,
    read_image_file,
    reason,
    unreadable,
)
from anynet_dist.data.image_folders import (
    IMAGE_SUFFIXES,
    class_folders,
    describe_left_out,
    find_images,
    readable,
)
from anynet_dist.data.jpeg import upright_rows
from anynet_dist.data.wide_pixels import White, is_wide, white_of
from anynet_dist.system import distributed
from anynet_dist.system.errors import UserError

logger = logging.getLogger(__name__)

_TIFFS_LOOKED_AT = 16


@dataclass(frozen=True)
class Opened:
    """An image whose size is known and whose pixels are still to be decoded."""

    shape: tuple[int, int]
    """Height and width."""
    rows: Callable[[int], Pixels]
    """Given a row, the pixels of at least all rows above it: RGB, shape (rows, W, 3), uint8. Raises
    ImageError when they cannot be decoded."""

    @classmethod
    def whole(cls, image: Pixels) -> Opened:
        """One that is decoded already."""
        return cls((image.shape[0], image.shape[1]), lambda bottom: image)


class Samples(Protocol):
    """Labelled images; they can be pickled, so that worker processes read them too."""

    labels: NDArray[np.int64]
    """Class numbers, shape (num_samples,)."""

    def image(self, index: int) -> Pixels:
        """The image as RGB, shape (H, W, 3), uint8; raises ImageError when it cannot be read."""

    def name(self, index: int) -> str:
        """What to call the sample in a message: its path where it has one."""

    def opened(self, index: int) -> Opened:
        """The image with as little of it decoded as can be; raises ImageError when it cannot be read."""
        return Opened.whole(self.image(index))


class ArraySamples(Samples):
    """Images held in memory, shape (N, H, W, 3), uint8."""

    def __init__(self, images: Pixels, labels: NDArray[np.int64]) -> None:
        self.images, self.labels = images, labels.astype(np.int64)

    def image(self, index: int) -> Pixels:
        """The image itself, not a copy."""
        return self.images[index]

    def name(self, index: int) -> str:
        """The sample's number."""
        return f"sample {index}"


class FolderSamples(Samples):
    """Image files of one split: ROOT/CLASS/*, classes numbered as given, files in alphabetical order.

    A warning names the files left out for their type, and the classes without an image whose folder is there.
    Raises UserError where there is no image at all.
    """

    def __init__(self, root: Path, classes: Sequence[str]) -> None:
        folders = class_folders(root)
        found = {name: find_images(folders[name]) for name in classes if name in folders}
        paths = [
            (os.path.join(os.fspath(folders[name].name), image), label)  # noqa: PTH118 - a million of them
            for label, name in enumerate(classes)
            if name in found
            for image in found[name].images
        ]
        left_out = describe_left_out({name: part.left_out for name, part in found.items()})
        if not paths:
            known = f"(known: {', '.join(sorted(IMAGE_SUFFIXES))})"
            raise UserError(
                f"{readable(root)}: no images in its class folders {known}" + (left_out and f"; {left_out}")
            )
        self.root = root
        # One array of bytes: a million paths stay small and are not copied to each worker process.
        self._paths = np.array([os.fsencode(path) for path, _ in paths])
        self.labels = np.array([label for _, label in paths], np.int64)
        self._white = self._white_of_tiffs()
        empty = {name: part.left_out for name, part in found.items() if not part.images}
        _warn(root, left_out, empty)

    def path(self, index: int) -> Path:
        """The file of a sample."""
        return self.root / os.fsdecode(self._paths[index].item())

    def image(self, index: int) -> Pixels:
        """Decode the file: JPEG by simplejpeg where it can, everything else by Pillow."""
        with self._errors_named(index) as path:
            return decode(read_image_file(path), self._white)

    def opened(self, index: int) -> Opened:
        """The file read; that of a JPEG is decoded later, down to the row that is asked for."""
        with self._errors_named(index) as path:
            data = read_image_file(path)
            if not upright_rows(data):
                return Opened.whole(decode(data, self._white))
            size = checked_jpeg_size(data)

        def rows(bottom: int) -> Pixels:
            with self._errors_named(index):
                return decode_rows(data, bottom)

        return Opened(size, rows)

    @contextmanager
    def _errors_named(self, index: int) -> Iterator[Path]:
        """Gives a sample's path; what is raised meanwhile becomes an ImageError with it."""
        path = self.path(index)
        try:
            yield path
        except Exception as error:  # decoders raise all kinds of errors
            raise unreadable(path, error) from error

    def name(self, index: int) -> str:
        """The file's path."""
        return readable(self.path(index))

    def _white_of_tiffs(self) -> White | None:
        """Which value is white in those of 32 bits, as far as a few, spread over the folder, show."""
        tiffs = [
            index for index, path in enumerate(self._paths) if path.lower().endswith((b".tif", b".tiff"))
        ]
        places = np.linspace(0, len(tiffs) - 1, min(len(tiffs), _TIFFS_LOOKED_AT)).astype(int)
        whites = set()
        for place in places:
            try:
                with open_image(io.BytesIO(read_image_file(self.path(tiffs[place])))) as image:
                    whites.add(white_of(image) if is_wide(image) else None)
            except Exception:  # it is named when it is read  # noqa: S112
                continue
        return max(whites - {None}, default=None)  # type: ignore[type-var]


def _warn(root: Path, left_out: str, empty: dict[str, Counter[str]]) -> None:
    if not distributed.is_main():
        return
    if left_out:
        logger.warning("%s: %s", readable(root), left_out)
    if empty:
        names = [f"{name} ({counts.total():,} files of other types)" for name, counts in empty.items()]
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        logger.warning("%s: classes without an image: %s%s", readable(root), ", ".join(names[:10]), more)


class SomeSamples(Samples):
    """Some of other samples, in the order of `indices`."""

    def __init__(self, samples: Samples, indices: NDArray[np.int64]) -> None:
        self.samples, self.indices = samples, indices
        self.labels = samples.labels[indices]

    def image(self, index: int) -> Pixels:
        """The image of the sample that it is among all."""
        return self.samples.image(int(self.indices[index]))

    def name(self, index: int) -> str:
        """The name of the sample that it is among all."""
        return self.samples.name(int(self.indices[index]))

    def opened(self, index: int) -> Opened:
        """The sample that it is among all."""
        return self.samples.opened(int(self.indices[index]))


class BetonSamples(Samples):
    """The images of a .beton file, read without FFCV."""

    def __init__(self, table: BetonTable) -> None:
        self.table, self.labels = table, table.labels
        self.file = BetonFile(table)

    def stored(self, index: int) -> bytes:
        """The bytes of an image as they lie in the file."""
        return self.file.read(index)

    def image(self, index: int) -> Pixels:
        """The stored image, read-only; raises BetonError when it cannot be read or decoded."""
        data, shape = self.stored(index), self._shape(index)
        if self.table.modes[index] != JPEG:
            return np.frombuffer(data, np.uint8).reshape(*shape, 3)
        return self._decoded(index, data)

    def opened(self, index: int) -> Opened:
        """The image as stored; a JPEG is decoded later, down to the row that is asked for."""
        if self.table.modes[index] != JPEG:
            return Opened.whole(self.image(index))
        data = self.stored(index)
        if not upright_rows(data):
            return Opened.whole(self._decoded(index, data))
        return Opened(self._shape(index), partial(self._decoded, index, data))

    def _decoded(self, index: int, data: bytes, bottom: int | None = None) -> Pixels:
        shape, stated = self._shape(index), jpeg_size(data)
        if all(stated) and stated != shape:
            raise self.file.misfit(index, stated)
        try:
            image = decode(data) if bottom is None else decode_rows(data, bottom)
        except Exception as error:  # decoders raise all kinds of errors
            raise BetonError(f"{self.name(index)}: cannot be decoded: {reason(error)}") from error
        if bottom is None and image.shape[:2] != shape:
            raise self.file.misfit(index, image.shape[:2])
        return image

    def _shape(self, index: int) -> tuple[int, int]:
        return int(self.table.heights[index]), int(self.table.widths[index])

    def name(self, index: int) -> str:
        """The file's path and the sample's number."""
        return f"{self.table.path}: sample {index}"


def class_names(root: Path) -> list[str]:
    """The class folders of one split, alphabetically; raises UserError where there are none."""
    return list(class_folders(root))
