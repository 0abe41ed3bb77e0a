"""The part of a JPEG that a crop needs, as a JPEG of its own, so that the rest is never decoded.

What takes the time is the entropy coding: where a value starts is only known once the one before it is
decoded, except behind a restart marker, which the writer sets several times in each row of blocks. Here the
intervals between markers that the crop needs are copied behind the header, with the size in the header and
the numbers of the markers changed to fit. No pixel of the crop changes by that.
"""

from __future__ import annotations

import numpy as np

from anynet_dist.data.loaders.c_functions import c_function
from anynet_dist.data.loaders.kept_code import compiled
from anynet_dist.data.loaders.libffcv import libc

_MARKER = 0xFF
_BASELINE, _EXTENDED, _HUFFMAN_TABLES, _LAST_FRAME = 0xC0, 0xC1, 0xC4, 0xCF
_FIRST_RESTART, _END, _SCAN, _INTERVAL = 0xD0, 0xD9, 0xDA, 0xDD
_COMPONENTS = 3
_MARGIN = 1
"""Pixels around the crop that it needs too: where colours are stored at half the resolution, those of a
pixel depend on its neighbours'."""

_find = c_function("anynet_memchr", libc.memchr, "qiQ", "q")
_copy = c_function("anynet_memcpy", libc.memcpy, "qqQ", "q")


@compiled()
def jpeg_part(data, height, width, top, left, bottom, right):  # type: ignore[no-untyped-def]
    """A JPEG of at least the rows top .. bottom-1 and the columns left .. right-1 of the JPEG `data`, which
    has `height` x `width` pixels: its bytes, its height and width, and at which row and column it starts.

    It is `data` itself where its kind or its markers do not allow for less, or are not as they should be;
    what is wrong with it is then left to the decoder to find.
    """
    whole = (data, height, width, 0, 0)
    frame, scan, interval = _layout(data)
    if scan == 0:
        return whole
    block_height, block_width = _block(data, frame)
    rows, columns = _steps(height, block_height), _steps(width, block_width)
    if block_height == 0 or columns % interval != 0:
        return whole
    step, in_row = interval * block_width, columns // interval
    first_row, last_row = max(0, top - _MARGIN) // block_height, _steps(bottom + _MARGIN, block_height)
    first, last = max(0, left - _MARGIN) // step, _steps(right + _MARGIN, step)
    last_row, last = min(last_row, rows), min(last, in_row)
    if (last_row - first_row) * (last - first) == rows * in_row:
        return whole
    starts, as_expected = _intervals(data, scan, rows * in_row)
    if not as_expected:
        return whole
    part = _copied(data, scan, starts, in_row, (first_row, last_row, first, last))
    top, left = first_row * block_height, first * step
    part_height, part_width = min(height, last_row * block_height) - top, min(width, last * step) - left
    part[frame + 5], part[frame + 6] = part_height >> 8, part_height & 255
    part[frame + 7], part[frame + 8] = part_width >> 8, part_width & 255
    return part, part_height, part_width, top, left


@compiled()
def _steps(length, step):  # type: ignore[no-untyped-def]
    return (length + step - 1) // max(1, step)


@compiled()
def _layout(data):  # type: ignore[no-untyped-def]
    """Where the frame header and the entropy-coded data start, and how many blocks lie between two restart
    markers; zeros unless it is a colour JPEG in a single sequential scan with such markers."""
    frame, interval, place = 0, 0, 2
    while place + 4 <= len(data) and data[place] == _MARKER:
        marker, length = data[place + 1], data[place + 2] * 256 + data[place + 3]
        after = place + 2 + length
        if marker < _BASELINE or length < 3 or after > len(data):
            break
        if marker == _SCAN:
            if frame != 0 and interval != 0 and data[place + 4] == _COMPONENTS:
                return frame, after, interval
            break
        if marker in (_BASELINE, _EXTENDED):
            if frame != 0 or length != 8 + 3 * _COMPONENTS or data[place + 4] != 8:
                break
            frame = place
        elif marker <= _LAST_FRAME and marker != _HUFFMAN_TABLES:
            break
        elif marker == _INTERVAL and length == 4:
            interval = data[place + 4] * 256 + data[place + 5]
        place = after
    return 0, 0, 0


@compiled()
def _block(data, frame):  # type: ignore[no-untyped-def]
    """Height and width in pixels of what is coded together, one block or more of each component."""
    height = width = 0
    for component in range(_COMPONENTS):
        sampling = data[frame + 11 + 3 * component]
        height, width = max(height, 8 * (sampling & 15)), max(width, 8 * (sampling >> 4))
    return height, width


@compiled()
def _intervals(data, scan, count):  # type: ignore[no-untyped-def]
    """Where each of `count` restart intervals starts, with what would be the next one's start at the end; and
    whether there are so many, numbered in turn, and the image ends after them."""
    starts = np.empty(count + 1, np.int64)
    starts[0], found = scan, 1
    first = data.ctypes.data
    end = first + data.size - 1  # a marker has a byte after it
    address = _find(first + scan, _MARKER, end - first - scan)
    while address != 0:
        marker, step = data[address - first + 1], 2
        if marker == _MARKER:  # padding
            step = 1
        elif marker != 0:
            starts[found] = address - first + 2
            if found == count or marker != _FIRST_RESTART + (found - 1) % 8:
                return starts, found == count and marker == _END
            found += 1
        address = _find(address + step, _MARKER, max(0, end - address - step))
    return starts, False


@compiled()
def _copied(data, scan, starts, in_row, box):  # type: ignore[no-untyped-def]
    """The header and the intervals of the rows of blocks and of the places in a row that `box` names."""
    first_row, last_row, first, last = box
    size = scan
    for row in range(first_row, last_row):
        size += starts[row * in_row + last] - starts[row * in_row + first]
    part = np.empty(size, np.uint8)
    source, target = data.ctypes.data, part.ctypes.data  # assigning slices would take seconds to compile
    _copy(target, source, scan)
    place, number = scan, 0
    for row in range(first_row, last_row):
        begin, end = starts[row * in_row + first], starts[row * in_row + last]
        _copy(target + place, source + begin, end - begin)
        for interval in range(row * in_row + first, row * in_row + last):
            place += starts[interval + 1] - starts[interval]
            part[place - 2], part[place - 1] = _MARKER, _FIRST_RESTART + number % 8
            number += 1
    part[place - 1] = _END
    return part
