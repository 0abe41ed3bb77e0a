"""What sample parameters do to one image: shift, flip, cutout. The compiled pass and the device loader do the
same, which tests hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anynet_dist.data.order import Indices
from anynet_dist.data.transforms.params import (
    FLIP,
    HOLE_BOTTOM,
    HOLE_LEFT,
    HOLE_RIGHT,
    HOLE_TOP,
    REFLECT,
    SHIFT_X,
    SHIFT_Y,
    SampleParams,
)


def place(
    image: NDArray[np.uint8], row: SampleParams, fill: NDArray[np.uint8], out: NDArray[np.uint8]
) -> None:
    """Shift, flip and cut `image` (R, R, 3) as `row` says, into `out` (R, R, 3), which must be other
    memory."""
    shift_and_flip(image, row, fill, out)
    cut_hole(row, fill, out)


def shift_and_flip(
    image: NDArray[np.uint8], row: SampleParams, fill: NDArray[np.uint8], out: NDArray[np.uint8]
) -> None:
    """Shift, then flip, `image` (R, R, 3) into `out` (R, R, 3)."""
    size = out.shape[0]
    shift_y, shift_x = row[SHIFT_Y], row[SHIFT_X]
    if row[REFLECT]:
        rows, columns = (_reflected(np.arange(size) + shift, size) for shift in (shift_y, shift_x))
        out[:] = image[rows[:, None], columns[::-1] if row[FLIP] else columns]
        return
    top, bottom = max(0, -shift_y), min(size, size - shift_y)
    left, right = max(0, -shift_x), min(size, size - shift_x)
    if shift_y != 0 or shift_x != 0:
        out[:] = fill
    seen = image[top + shift_y : bottom + shift_y, left + shift_x : right + shift_x]
    if row[FLIP]:
        mirrored = out[top:bottom, size - right : size - left]
        for channel in range(3):  # all at once, numpy would run a loop of 3 values for each pixel
            mirrored[..., channel] = seen[:, ::-1, channel]
    else:
        out[top:bottom, left:right] = seen


def cut_hole(row: SampleParams, fill: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Paint cutout's hole in `out` (R, R, 3)."""
    out[row[HOLE_TOP] : row[HOLE_BOTTOM], row[HOLE_LEFT] : row[HOLE_RIGHT]] = fill


def _reflected(places: Indices, size: int) -> Indices:
    """Places beyond the edge, mirrored at it: -1 is 1, `size` is size - 2."""
    return size - 1 - np.abs(size - 1 - np.abs(places))
