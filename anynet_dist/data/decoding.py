"""From the bytes of an image file to RGB pixels."""

from __future__ import annotations

import functools
import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from anynet_dist.data.beton.jpeg_header import jpeg_size
from anynet_dist.data.image_folders import heic_installed, readable
from anynet_dist.data.jpeg import decode_jpeg, is_jpeg
from anynet_dist.data.wide_pixels import White, is_wide, to_bytes
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import read_regular_file

Pixels = NDArray[np.uint8]
LIMIT_VARIABLE = "ANYNET_MAX_IMAGE_PIXELS"
_UNLIMITED = 2**40
_BYTES_PER_PIXEL = 8  # four channels of 16 bits, uncompressed


class ImageError(UserError):
    """An image that cannot be read."""


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
    if is_jpeg(data):
        checked_jpeg_size(data)
        image = decode_jpeg(data)
        if image is not None:
            return image
    with open_image(io.BytesIO(data)) as opened:
        return to_rgb(opened, white)


def decode_rows(data: bytes, bottom: int) -> Pixels:
    """At least the rows above `bottom` of what `decode` gives, shape (>= bottom, W, 3), of a JPEG that has
    `upright_rows` and no more than `pixel_limit()` pixels."""
    pixels = decode_jpeg(data, bottom)
    return decode(data) if pixels is None else pixels


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


def checked_jpeg_size(data: bytes) -> tuple[int, int]:
    """Height and width of a JPEG; raises ImageError where it has more than `pixel_limit()` pixels."""
    height, width = jpeg_size(data)
    if height * width > pixel_limit():
        raise _too_many(f"Image size ({height * width} pixels) exceeds limit of {pixel_limit()} pixels")
    return height, width


def import_decoders() -> None:
    """Import now what decoding imports at its first image."""
    decode_jpeg(b"")
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
