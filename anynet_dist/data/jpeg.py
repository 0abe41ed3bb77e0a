"""JPEGs decoded by simplejpeg (libjpeg-turbo), no further down than is asked for.

None stands for what is left to Pillow: kinds that simplejpeg does not read, and files that are cut short, of
which Pillow says what is wrong.
"""

from __future__ import annotations

import contextlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anynet_dist.data.beton.jpeg_header import jpeg_frame, size_at

_BASELINE = (0xC0, 0xC1)
_START, _END = b"\xff\xd8", b"\xff\xd9"
_EXIF, _ORIENTATION = b"Exif\0\0", 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by the orientation that its EXIF tag states."""
_ROWS_AT_A_TIME = 32
"""A multiple of the height of what is coded together, whatever the resolution of the colours."""


def is_jpeg(data: bytes) -> bool:
    """Whether the bytes of a file begin as a JPEG does."""
    return data[:2] == _START


def upright_rows(data: bytes) -> bool:
    """Whether the rows of a JPEG can be decoded from the top down to any: it is stored as it is shown, and
    not progressive, which has all rows only at its end."""
    frame = jpeg_frame(data) if is_jpeg(data) else 0
    return (
        frame > 0
        and data[frame + 1] in _BASELINE
        and all(size_at(data, frame))
        and _turn(data, frame) is None
    )


def decode_jpeg(data: bytes, bottom: int | None = None) -> NDArray[np.uint8] | None:
    """RGB pixels, shape (H, W, 3), turned as the EXIF tag says; None where that takes Pillow.

    With `bottom`, which needs `upright_rows`, at least the rows above it: shape (>= bottom, W, 3).
    """
    import simplejpeg  # type: ignore[import-untyped]

    frame = jpeg_frame(data)
    if frame == 0 or data.rfind(_END, frame) < 0:
        return None
    height, _ = size_at(data, frame)
    if bottom is not None:
        # One row more: where colours are stored at half the resolution, they depend on the neighbours'.
        height = min(height, -(-(bottom + 1) // _ROWS_AT_A_TIME) * _ROWS_AT_A_TIME)
        data = data[: frame + 5] + height.to_bytes(2) + data[frame + 7 :]
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", strict=False)
    except ValueError:
        return None
    turn = _turn(data, frame)
    return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))


def _turn(data: bytes, frame: int) -> Image.Transpose | None:
    """How a JPEG must be turned to stand upright, by an EXIF tag before its frame header."""
    start = data.find(_EXIF, 0, frame)
    if start < 0:
        return None
    exif = Image.Exif()
    with contextlib.suppress(Exception):  # what is no tag turns nothing
        exif.load(data[start:frame])
        return _TURNS.get(exif.get(_ORIENTATION, 1))
    return None
