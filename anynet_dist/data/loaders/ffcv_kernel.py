"""The compiled part of the FFCV loader: one pass over a batch, in parallel over its samples.

The compiled code is kept on disk (`kept_code`), so only the first start ever waits for it.

Samples are read, not mapped into memory (see `beton/file.py`). Of a raw one, only the rows that are needed
are read; of a JPEG with restart markers, only the part that is needed is decoded (`jpeg_part`).
"""

from __future__ import annotations

import numpy as np
from numba import carray, prange, types
from numba.extending import intrinsic

from anynet_dist.data.beton.format import JPEG
from anynet_dist.data.beton.jpeg_header import jpeg_frame, size_at
from anynet_dist.data.loaders.c_functions import c_function
from anynet_dist.data.loaders.jpeg_part import jpeg_part
from anynet_dist.data.loaders.kept_code import compiled
from anynet_dist.data.loaders.libffcv import libc, libffcv
from anynet_dist.data.transforms.params import (
    FAILED,
    FLIP,
    HEIGHT,
    HOLE_BOTTOM,
    HOLE_LEFT,
    HOLE_RIGHT,
    HOLE_TOP,
    LEFT,
    REFLECT,
    SHIFT_X,
    SHIFT_Y,
    TOP,
    WIDTH,
)

DAMAGED, UNREADABLE, MISFIT = 1, 2, 3
"""Values of the column FAILED of sample parameters: the JPEG cannot be decoded, its bytes cannot be read, or
it is not of the size that the table says."""


# int imdecode(source, size, height, width, out, crop_height, crop_width, y, x, scale, scale, crop, flip)
_imdecode = c_function("anynet_ffcv_imdecode", libffcv.imdecode, "pQIIpIIIIII??", "i")
# void resize(mode, source, height, width, top, bottom, left, right, out, out_height, out_width)
# void my_memcpy(source, target, size)
_memcpy = c_function("anynet_ffcv_memcpy", libffcv.my_memcpy, "qqQ", "")
_resize = c_function("anynet_ffcv_resize", libffcv.resize, "qqqqqqqqqqq", "")
# ssize_t pread(file, target, size, offset), of the C library
_pread = c_function("anynet_pread", libc.pread, "iqQq", "q")


@intrinsic
def _pointer(typing, address):  # type: ignore[no-untyped-def]
    """An address as a pointer to bytes."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint8)(types.uintp), generate


@compiled()
def _bytes(file, start, size):  # type: ignore[no-untyped-def]
    """`size` bytes of an open file from `start` on, and whether they could be read."""
    data = np.empty(size, np.uint8)
    done = 0
    while done < size:
        count = _pread(file, data.ctypes.data + done, size - done, start + done)
        if count <= 0:
            return data, False
        done += count
    return data, True


_jpeg_frame, _size_at = compiled()(jpeg_frame), compiled()(size_at)


@compiled()
def _read_rows(file, start, width, row):  # type: ignore[no-untyped-def]
    """The same of pixels that are stored as they are."""
    data, whole = _bytes(file, start + 3 * width * row[TOP], 3 * width * row[HEIGHT])
    return data.reshape(row[HEIGHT], width, 3), row[TOP], 0, 0 if whole else UNREADABLE


@compiled()
def _read(file, start, size, height, width, mode, row):  # type: ignore[no-untyped-def]
    """At least the pixels of a sample that its box needs, shape (rows, columns, 3), which row and column of
    the image comes first, and what to note as FAILED."""
    if mode is None:  # no JPEGs in the file: what follows is not even compiled
        return _read_rows(file, start, width, row)
    if mode != JPEG:
        return _read_rows(file, start, width, row)
    data, whole = _bytes(file, start, size)
    failed = DAMAGED
    if not whole:
        failed = UNREADABLE
    else:
        frame = _jpeg_frame(data)
        stated_height, stated_width = _size_at(data, frame) if frame != 0 else (0, 0)
        if stated_height == height and stated_width == width:
            return _decode(data, height, width, row)
        if stated_height != 0 and stated_width != 0:  # FFCV would fill the pixels in part, or wrongly
            failed = MISFIT
    return np.empty((height, width, 3), np.uint8), 0, 0, failed


@compiled()
def _decode(data, height, width, row):  # type: ignore[no-untyped-def]
    """The same of the bytes of a JPEG."""
    bottom, right = row[TOP] + row[HEIGHT], row[LEFT] + row[WIDTH]
    part, height, width, top, left = jpeg_part(data, height, width, row[TOP], row[LEFT], bottom, right)
    image = np.empty((height, width, 3), np.uint8)
    status = _imdecode(
        part.ctypes, part.size, height, width, image.ctypes, height, width, 0, 0, 1, 1, False, False
    )
    return image, top, left, 0 if status == 0 else DAMAGED


@compiled()
def _place(image, top, left, row, fill, out):  # type: ignore[no-untyped-def]
    """What `apply.place` does with image[top:, left:], in loops that compile well; a test holds the two
    together."""
    size = out.shape[0]
    shift_y, shift_x = row[SHIFT_Y], row[SHIFT_X]
    reflect = row[REFLECT] != 0
    if not reflect and (shift_y != 0 or shift_x != 0):
        _fill(out, 0, 0, size, size, fill)
    first, last = max(0, -shift_x), min(size, size - shift_x)
    source, target = image.ctypes.data, out.ctypes.data
    for y in range(size):
        seen_y = _reflected(y + shift_y, size)
        if not reflect and seen_y != y + shift_y:
            continue
        start = source + 3 * ((top + seen_y) * image.shape[1] + left + shift_x + first)
        if row[FLIP] == 0:
            _memcpy(start, target + 3 * (size * y + first), 3 * (last - first))
        else:
            _mirror(start, target + 3 * (size * y + size - last), last - first)
        if reflect:
            for step in range(size - last + first):
                x = step if step < first else last + step - first
                seen_x = left + _reflected(x + shift_x, size)
                for channel in range(3):
                    pixel = image[top + seen_y, seen_x, channel]
                    out[y, x if row[FLIP] == 0 else size - 1 - x, channel] = pixel
    _fill(out, row[HOLE_TOP], row[HOLE_LEFT], row[HOLE_BOTTOM], row[HOLE_RIGHT], fill)


@compiled()
def _reflected(place, size):  # type: ignore[no-untyped-def]
    """A place beyond the edge, mirrored at it: -1 is 1, `size` is size - 2."""
    return size - 1 - abs(size - 1 - abs(place))


@compiled()
def _mirror(source, target, width):  # type: ignore[no-untyped-def]
    """Copy `width` pixels of 3 bytes from one address to another, in reverse order."""
    pixels = carray(_pointer(source), 3 * width)
    mirrored = carray(_pointer(target), 3 * width)
    for x in range(np.uint64(width)):
        back = np.uint64(3) * (np.uint64(width) - np.uint64(1) - x)
        for channel in range(np.uint64(3)):
            mirrored[back + channel] = pixels[np.uint64(3) * x + channel]


@compiled()
def _fill(out, top, left, bottom, right, fill):  # type: ignore[no-untyped-def]
    for y in range(top, bottom):
        for x in range(left, right):
            for channel in range(3):
                out[y, x, channel] = fill[channel]


@compiled()
def _decode_sample(file, start, size, height, width, mode, row, fill, out):  # type: ignore[no-untyped-def]
    image, first_row, first_column, row[FAILED] = _read(file, start, size, height, width, mode, row)
    side, top, left = out.shape[0], row[TOP] - first_row, row[LEFT] - first_column
    bottom, right = top + row[HEIGHT], left + row[WIDTH]
    if row[HEIGHT] == side and row[WIDTH] == side:
        _place(image, top, left, row, fill, out)
        return
    moves = row[FLIP] != 0 or row[SHIFT_Y] != 0 or row[SHIFT_X] != 0
    resized = np.empty_like(out) if moves else out
    source, target = image.ctypes.data, resized.ctypes.data
    _resize(0, source, image.shape[0], image.shape[1], top, bottom, left, right, target, side, side)
    if moves:
        _place(resized, 0, 0, row, fill, out)
    else:
        _fill(out, row[HOLE_TOP], row[HOLE_LEFT], row[HOLE_BOTTOM], row[HOLE_RIGHT], fill)


@compiled()
def _mode(modes, index):  # type: ignore[no-untyped-def]
    if modes is None:
        return None
    return modes[index]


@compiled(parallel=True)
def decode_batch(indices, file, starts, sizes, heights, widths, modes, params, fill, out):  # type: ignore[no-untyped-def]
    """Decode the samples `indices` (B,) into `out` (B, R, R, 3) as `params` (B, NUM_COLUMNS) says, and mark
    there those that fail.

    `file` is the descriptor of the .beton file; the arrays after it are those of its BetonTable.
    """
    for number in prange(len(indices)):
        index = indices[number]
        sample = (starts[index], sizes[index], heights[index], widths[index], _mode(modes, index))
        _decode_sample(file, *sample, params[number], fill, out[number])
