"""Labelled images by index, wherever they lie: in memory, in a folder, in a .beton file."""

from __future__ import annotations

import functools
import io
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from anynet_dist.data.beton.file import BetonFile
from anynet_dist.data.beton.format import JPEG, BetonError, BetonTable
from anynet_dist.data.beton.jpeg_header import jpeg_size
from anynet_dist.data.image_folders import (
    IMAGE_SUFFIXES,
    class_folders,
    describe_left_out,
    find_images,
    heic_installed,
    readable,
)
from anynet_dist.data.wide_pixels import White, is_wide, to_bytes, white_of
from anynet_dist.system import distributed
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import read_regular_file

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
LIMIT_VARIABLE = "ANYNET_MAX_IMAGE_PIXELS"
_UNLIMITED = 2**40
_BYTES_PER_PIXEL = 8  # four channels of 16 bits, uncompressed
_TIFFS_LOOKED_AT = 16


class Samples(Protocol):
    """Labelled images; they can be pickled, so that worker processes read them too."""

    labels: NDArray[np.int64]
    """Class numbers, shape (num_samples,)."""

    def image(self, index: int) -> Pixels:
        """The image as RGB, shape (H, W, 3), uint8; raises ImageError when it cannot be read."""

    def name(self, index: int) -> str:
        """What to call the sample in a message: its path where it has one."""


class ImageError(UserError):
    """An image that cannot be read."""


class ArraySamples:
    """Images held in memory, shape (N, H, W, 3), uint8."""

    def __init__(self, images: Pixels, labels: NDArray[np.int64]) -> None:
        self.images, self.labels = images, labels.astype(np.int64)

    def image(self, index: int) -> Pixels:
        """The image itself, not a copy."""
        return self.images[index]

    def name(self, index: int) -> str:
        """The sample's number."""
        return f"sample {index}"


class FolderSamples:
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
        """Decode the file: JPEG by torchvision where it can, everything else by Pillow."""
        path = self.path(index)
        try:
            return decode(read_image_file(path), self._white)
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


class SomeSamples:
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


class BetonSamples:
    """The images of a .beton file, read without FFCV."""

    def __init__(self, table: BetonTable) -> None:
        self.table, self.labels = table, table.labels
        self.file = BetonFile(table)

    def stored(self, index: int) -> bytes:
        """The bytes of an image as they lie in the file."""
        return self.file.read(index)

    def image(self, index: int) -> Pixels:
        """The stored image, read-only; raises BetonError when it cannot be read or decoded."""
        table, data = self.table, self.stored(index)
        shape = (int(table.heights[index]), int(table.widths[index]), 3)
        if table.modes[index] != JPEG:
            return np.frombuffer(data, np.uint8).reshape(shape)
        stated = jpeg_size(data)
        if all(stated) and stated != shape[:2]:
            raise self.file.misfit(index, stated)
        try:
            image = decode(data)
        except Exception as error:  # decoders raise all kinds of errors
            raise BetonError(f"{self.name(index)}: cannot be decoded: {reason(error)}") from error
        if image.shape != shape:
            raise self.file.misfit(index, image.shape[:2])
        return image

    def name(self, index: int) -> str:
        """The file's path and the sample's number."""
        return f"{self.table.path}: sample {index}"


def class_names(root: Path) -> list[str]:
    """The class folders of one split, alphabetically; raises UserError where there are none."""
    return list(class_folders(root))


def pixel_limit() -> int:
    """The most pixels that an image may have: where Pillow takes one for a decompression bomb, at twice its
    `Image.MAX_IMAGE_PIXELS`, unless the environment's ANYNET_MAX_IMAGE_PIXELS says otherwise."""
    given = os.environ.get(LIMIT_VARIABLE)
    if given is not None:
        if not given.isdecimal() or int(given) < 1:
            raise UserError(f"{LIMIT_VARIABLE} must be an integer (pixels) of at least 1, not '{given}'")
        Image.MAX_IMAGE_PIXELS = -(-int(given) // 2)
    return 2 * (Image.MAX_IMAGE_PIXELS or _UNLIMITED)


def read_image_file(path: Path) -> bytes:
    """The bytes of an image file; raises OSError, also for what is no file or larger than an image may be."""
    return read_regular_file(path, most=_BYTES_PER_PIXEL * pixel_limit())


def reason(error: Exception) -> str:
    """Why an image could not be read, in one line, without its path, which the system's errors repeat, and
    without addresses in memory, which differ each time."""
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    text = re.sub(r"<[^<>]* object at 0x[0-9a-f]+>", "the file", " ".join(text.split()))
    return text if isinstance(error, OSError | ValueError) else f"damaged ({type(error).__name__}: {text})"


def unreadable(path: Path, error: Exception) -> ImageError:
    """What to raise for an image file that raised `error` when it was read."""
    return ImageError(f"{readable(path)}: cannot be read as an image: {reason(error)}")


def decode(data: bytes, white: White | None = None) -> Pixels:
    """Decode an encoded image to RGB, shape (H, W, 3), uint8, turned as its EXIF tag says.

    Grey, palette, CMYK, 16-bit and transparent images are converted, those of 32 bits by `white` (see
    data/wide_pixels.py); of an animation it is the first frame. Raises ImageError where the image has
    more than `pixel_limit()` pixels, before any of them is decoded, and whatever the decoders raise.
    """
    if data[:2] == b"\xff\xd8":
        height, width = jpeg_size(data)
        if height * width > pixel_limit():
            raise _too_many(f"Image size ({height * width} pixels) exceeds limit of {pixel_limit()} pixels")
        image = _decode_jpeg(data)
        if image is not None:
            return image
    with open_image(io.BytesIO(data)) as opened:
        return to_rgb(opened, white)


@contextmanager
def open_image(source: Path | io.BytesIO) -> Iterator[Image.Image]:
    """An image opened by Pillow, with its size but not its pixels read.

    Raises ImageError where it has more than `pixel_limit()` pixels.
    """
    pixel_limit()  # sets Pillow's
    _teach_heic()
    try:
        with warnings.catch_warnings():  # Pillow warns at half of its limit
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(source)
    except Image.DecompressionBombError as error:
        raise _too_many(str(error).partition(",")[0]) from None
    except UnidentifiedImageError:
        raise ImageError("is of no image format or pixel type that Pillow reads, or damaged") from None
    with opened:
        yield opened


def _too_many(message: str) -> ImageError:
    return ImageError(f"{message}; make it smaller, or raise the limit with {LIMIT_VARIABLE}")


def _decode_jpeg(data: bytes) -> Pixels | None:
    """Decode with torchvision, which is half again as fast as Pillow; None where it cannot."""
    try:
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        with warnings.catch_warnings():  # torchvision means to drop its decoders; Pillow stands in then
            warnings.filterwarnings("ignore", message="The image decoding and encoding capabilities")
            image = decode_jpeg(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    except (ImportError, RuntimeError):
        return None  # Pillow also reads more kinds, and says better what is wrong with a broken one
    # not made contiguous by torch, whose threads do not survive a fork
    return np.ascontiguousarray(image.numpy().transpose(1, 2, 0))


def import_decoders() -> None:
    """Import now what decoding imports at its first image: torchvision takes seconds."""
    _decode_jpeg(b"\0")
    _teach_heic()


@functools.cache
def _teach_heic() -> None:
    if heic_installed():
        from pillow_heif import register_heif_opener  # type: ignore[import-not-found, unused-ignore]

        register_heif_opener()


def to_rgb(image: Image.Image, white: White | None = None) -> Pixels:
    """Any Pillow image as RGB, shape (H, W, 3), uint8, turned as its EXIF tag says."""
    wide = is_wide(image)  # the turned image no longer shows it
    image = ImageOps.exif_transpose(image)
    if wide:
        image = Image.fromarray(to_bytes(image, white))
    elif image.mode.startswith("I"):  # 16 bits: Pillow's own conversion would clip instead of scale
        image = Image.fromarray((np.asarray(image, np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))
