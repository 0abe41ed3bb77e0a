"""Write FFCV's file format: samples are decoded and encoded by worker processes, one process writes them
in order.

FFCV reads the result like a file of its own `DatasetWriter`. That writer is not used here: it needs FFCV
where the file is built, hangs when a worker dies or an image is bad, leaves shared memory behind when
stopped, and writes other bytes each time. Here the same samples and options give the same bytes, whatever
the number of workers.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anynet_dist.data import beton_format as fmt
from anynet_dist.data.augment import uniform_draws
from anynet_dist.data.samples import ImageError, Pixels, Samples
from anynet_dist.data.workers import process_context
from anynet_dist.system.errors import UserError, unknown_name

WriteMode = Literal["raw", "jpg", "proportion"]
WRITE_MODES = ("raw", "jpg", "proportion")
MAX_SIDE = 2**16 - 1
SMALLEST_PAGE, LARGEST_PAGE = 2**23, 2**28
CHUNK = 32


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """How images are stored."""

    write_mode: WriteMode = "raw"
    """raw: pixels (largest, fastest); jpg: all as JPEG; proportion: a random part as JPEG, the rest raw."""
    max_resolution: int | None = None
    """Images whose longer side exceeds this many pixels are made smaller (by area averaging)."""
    quality: int = 90
    """JPEG quality, 1 to 100."""
    compress_probability: float = 0.5
    """With `proportion`: the share of images stored as JPEG."""
    seed: int = 0
    """With `proportion`: decides which ones."""

    def __post_init__(self) -> None:
        if self.write_mode not in WRITE_MODES:
            raise unknown_name("write mode", self.write_mode, WRITE_MODES)
        if self.max_resolution is not None and not 1 <= self.max_resolution <= MAX_SIDE:
            raise UserError(
                f"the maximum resolution must lie between 1 and {MAX_SIDE}, not {self.max_resolution}"
            )
        if not 1 <= self.quality <= 100:
            raise UserError(f"the JPEG quality must lie between 1 and 100, not {self.quality}")
        if not 0 <= self.compress_probability <= 1:
            raise UserError(
                f"the compress probability must lie between 0 and 1, not {self.compress_probability}"
            )

    @property
    def page_size(self) -> int:
        """Bytes of a page: a power of two that holds any image, for none may lie across a page's end."""
        if self.max_resolution is None:
            return LARGEST_PAGE
        largest = 3 * self.max_resolution**2
        return min(LARGEST_PAGE, max(SMALLEST_PAGE, 1 << (largest - 1).bit_length()))


@dataclass
class Chunk:
    """Some samples in a row, ready to be written."""

    rows: NDArray[np.void]
    """Metadata (beton_format.SAMPLE), `start` still empty."""
    data: list[bytes] = field(default_factory=list)
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, 256), np.int64))
    """How often each value of each channel occurs in the pixels."""
    broken: list[str] = field(default_factory=list)
    """Samples that cannot be written, each with the reason."""


@dataclass
class Encoder:
    """Turns samples into bytes; one in each worker process."""

    samples: Samples
    options: WriteOptions

    def __call__(self, first: int, last: int) -> Chunk:
        """Encode samples first .. last-1."""
        chunk = Chunk(np.zeros(last - first, fmt.SAMPLE))
        for row, index in zip(chunk.rows, range(first, last), strict=True):
            try:
                self._encode(chunk, row, index)
            except ImageError as error:
                chunk.broken.append(str(error))
        return chunk

    def _encode(self, chunk: Chunk, row: np.void, index: int) -> None:
        image = _shrink(self.samples.image(index), self.options.max_resolution)
        height, width = image.shape[:2]
        mode = self._mode(index)
        data = image.tobytes() if mode == fmt.RAW else _jpeg(image, self.options.quality)
        if max(height, width) > MAX_SIDE or len(data) > self.options.page_size:
            name = self.samples.name(index)
            raise ImageError(
                f"{name}: {width}x{height} pixels are too many to store; set a maximum resolution"
            )
        row["image"]["mode"], row["image"]["height"], row["image"]["width"] = mode, height, width
        row["label"] = self.samples.labels[index]
        chunk.data.append(data)
        for channel in range(3):
            chunk.histogram[channel] += np.bincount(image[..., channel].reshape(-1), minlength=256)

    def _mode(self, index: int) -> int:
        if self.options.write_mode != "proportion":
            return fmt.JPEG if self.options.write_mode == "jpg" else fmt.RAW
        draw = uniform_draws(self.options.seed, 0, np.array([index]), 1)[0, 0]
        return fmt.JPEG if draw < self.options.compress_probability else fmt.RAW


def write(
    path: Path, samples: Samples, options: WriteOptions, workers: int, on_progress: Callable[[int], object]
) -> NDArray[np.int64]:
    """Write all samples to `path` and return the histogram of their pixels, shape (3, 256).

    `on_progress` is told how many samples were just written. Raises BetonError that names every image that
    cannot be stored, once all were tried.
    """
    num_samples = len(samples.labels)
    rows = np.zeros(num_samples, fmt.SAMPLE)
    table = np.zeros(num_samples, fmt.ALLOCATION)
    histogram = np.zeros((3, 256), np.int64)
    broken: list[str] = []
    done = 0
    with open(path, "wb") as file:
        position = fmt.METADATA_START + rows.nbytes
        for chunk in _encoded(Encoder(samples, options), num_samples, workers):
            broken += chunk.broken
            histogram += chunk.histogram
            if not broken:
                part = slice(done, done + len(chunk.rows))
                rows[part] = chunk.rows
                position = _write_chunk(file, position, options.page_size, chunk, rows[part], table[part])
            done += len(chunk.rows)
            on_progress(len(chunk.rows))
        if broken:
            raise fmt.BetonError(
                f"{len(broken)} of {num_samples} images cannot be stored:\n  " + "\n  ".join(broken)
            )
        table["sample"] = np.arange(num_samples)
        _write_tables(file, position, options.page_size, rows, table)
    return histogram


def _write_chunk(
    file: BinaryIO,
    position: int,
    page_size: int,
    chunk: Chunk,
    rows: NDArray[np.void],
    table: NDArray[np.void],
) -> int:
    """Append a chunk's images, none across a page's end, note where they are, and return the new end of
    the data."""
    for number, data in enumerate(chunk.data):
        if position % page_size + len(data) > page_size:
            position += -position % page_size
        file.seek(position)
        file.write(data)
        rows["image"]["start"][number] = table["start"][number] = position
        table["size"][number] = len(data)
        position += len(data)
    return position


def _write_tables(
    file: BinaryIO, table_start: int, page_size: int, rows: NDArray[np.void], table: NDArray[np.void]
) -> None:
    fields = np.zeros(len(fmt.FIELDS), fmt.FIELD)
    fields["name"], fields["type"] = zip(*((name.encode(), kind) for name, kind in fmt.FIELDS), strict=True)
    file.seek(table_start)
    file.write(table.tobytes())
    file.seek(0)
    header = np.array((fmt.VERSION, len(fields), page_size, len(rows), table_start), fmt.HEADER)
    file.write(header.tobytes() + fields.tobytes() + rows.tobytes())


def _encoded(encoder: Encoder, num_samples: int, workers: int) -> Iterator[Chunk]:
    """The encoded chunks in order; at most a few are held at a time."""
    ranges = [(first, min(first + CHUNK, num_samples)) for first in range(0, num_samples, CHUNK)]
    if workers == 1:
        yield from (encoder(*bounds) for bounds in ranges)
        return
    encoder(0, 1)  # imports the decoders, which forked workers then need not do
    pool = ProcessPoolExecutor(workers, process_context(), _start_worker, (encoder,))
    waiting: deque[Future[Chunk]] = deque()
    try:
        for bounds in ranges:
            waiting.append(pool.submit(_run_worker, *bounds))
            if len(waiting) > workers + 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise fmt.BetonError("a worker process was killed (out of memory?); use fewer workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_encoder: Encoder | None = None


def _start_worker(encoder: Encoder) -> None:
    global _encoder
    _encoder = encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if "torch" in sys.modules:  # a forked child that starts torch's threads hangs
        sys.modules["torch"].set_num_threads(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_worker(first: int, last: int) -> Chunk:
    assert _encoder is not None
    return _encoder(first, last)


def _shrink(image: Pixels, max_resolution: int | None) -> Pixels:
    height, width = image.shape[:2]
    longest = max(height, width)
    if max_resolution is None or longest <= max_resolution:
        return image
    size = (max(1, round(width * max_resolution / longest)), max(1, round(height * max_resolution / longest)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _jpeg(image: Pixels, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
