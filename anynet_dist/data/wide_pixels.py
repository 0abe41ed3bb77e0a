"""Images of 32-bit pixels (TIFF), whose files do not state which value is white.

It follows from the values, once for all images of a folder: scaled each by its own brightest pixel, images
would not be comparable. What is not certain is refused.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anynet_dist.system.errors import UserError

White = int
"""The value that stands for white: 1, 255 or 65535."""
_DARK = 16
"""Values below it may be a dark image of 0..255, a mask, or an image of 0..1 that goes beyond it."""
_REMEDY = "convert it to 8 or 16 bits, whose type says what is white"


class PixelRangeError(UserError):
    """Nobody can say which value is white."""


def is_wide(image: Image.Image) -> bool:
    """Whether its pixels have 32 bits in a file that does not say what is white."""
    return image.mode == "F" or (image.mode == "I" and image.format == "TIFF")


def white_of(image: Image.Image) -> White | None:
    """The white of a wide image by its values alone; None for those too dark to tell.

    Raises PixelRangeError where there are values below 0, above 65535 or not finite.
    """
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 65535):
        raise PixelRangeError(f"its {values.dtype} values lie in {_span(values)}, not in 0..65535; {_REMEDY}")
    if values.dtype.kind == "f" and 0 < high <= 1:
        return 1
    if high < _DARK:
        return None
    return 255 if high <= 255 else 65535


def to_bytes(image: Image.Image, white: White | None = None) -> NDArray[np.uint8]:
    """The values of a wide image in 0..255, where `white`, that of the other images of its folder, becomes
    255. Raises PixelRangeError where its own is another or, without `white`, uncertain."""
    own, values = white_of(image), np.asarray(image)
    if white is None and own is None and values.any():
        raise PixelRangeError(
            f"its {values.dtype} values lie in {_span(values)}: it is not certain which value is white;"
            f" {_REMEDY}"
        )
    scale = white or own or 255
    if own not in (None, scale) or values.max() > scale:
        raise PixelRangeError(
            f"its {values.dtype} values lie in {_span(values)}, those of other images of its folder in"
            f" 0..{scale}; {_REMEDY}"
        )
    if scale == 65535:
        return (values / 256).astype(np.uint8)  # as images of 16 bits
    return np.rint(values * (255.0 / scale)).astype(np.uint8)


def _span(values: NDArray[np.generic]) -> str:
    return f"{values.min():.6g}..{values.max():.6g}"
