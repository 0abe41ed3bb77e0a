"""The size that a JPEG states of itself, read without decoding it.

Plain Python that numba compiles too (see `ffcv_kernel`), so all loaders agree on what a file says.
"""

from __future__ import annotations

from numpy.typing import NDArray

_MARKER = 0xFF
_FIRST_FRAME, _LAST_FRAME = 0xC0, 0xCF
_NO_FRAMES = (0xC4, 0xC8, 0xCC)
"""Among the frame markers: Huffman tables, reserved, arithmetic coding."""
_FIRST_RESTART, _START = 0xD0, 0xD8
_TEMPORARY = 0x01


def jpeg_frame(data: bytes | NDArray) -> int:
    """Where the frame header (SOF) of a JPEG starts, as bytes or an array of them; 0 where it has none.

    Markers are found as libjpeg finds them: bytes between segments are passed over, markers may be padded.
    """
    place, last = 2, len(data) - 9
    while place <= last:
        marker = data[place + 1]
        if data[place] != _MARKER or marker == _MARKER:
            place += 1
        elif marker == 0 or marker == _TEMPORARY or _FIRST_RESTART <= marker <= _START:
            place += 2
        elif _FIRST_FRAME <= marker <= _LAST_FRAME and marker not in _NO_FRAMES:
            return place
        else:
            place += 2 + max(2, data[place + 2] * 256 + data[place + 3])
    return 0


def jpeg_size(data: bytes | NDArray) -> tuple[int, int]:
    """Height and width that a JPEG states of itself; (0, 0) where it states none."""
    frame = jpeg_frame(data)
    return size_at(data, frame) if frame else (0, 0)


def size_at(data: bytes | NDArray, frame: int) -> tuple[int, int]:
    """Height and width in the frame header at `frame`."""
    return data[frame + 5] * 256 + data[frame + 6], data[frame + 7] * 256 + data[frame + 8]
