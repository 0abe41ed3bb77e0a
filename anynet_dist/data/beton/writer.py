"""Write FFCV's file format: samples are decoded and encoded by worker processes, one process writes them
in order.

FFCV reads the result like a file of its own `DatasetWriter`. That writer is not used here: it needs FFCV
where the file is built, hangs when a worker dies or an image is bad, leaves shared memory behind when
stopped, and writes other bytes each time. Here the same samples and options give the same bytes, whatever
the number of workers.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anynet_dist.data.beton import format as fmt
from anynet_dist.data.decoding import ImageError, Pixels
from anynet_dist.data.samples import BetonSamples, Samples
from anynet_dist.data.transforms.params import uniform_draws
from anynet_dist.data.worker_pool import map_ranges
from anynet_dist.system.errors import UserError, unknown_name

WriteMode = Literal["raw", "jpg", "proportion"]
WRITE_MODES = ("raw", "jpg", "proportion")
BadImagePolicy = Literal["stop", "skip", "black"]
BAD_IMAGE_POLICIES = ("stop", "skip", "black")
MAX_SIDE = 2**16 - 1
SMALLEST_PAGE, LARGEST_PAGE = 2**23, 2**28


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
    """With `proportion`: the fraction of images stored as JPEG."""
    seed: int = 0
    """With `proportion`: decides which ones."""
    on_bad_image: BadImagePolicy = "stop"
    """What an image that cannot be read or stored does: stop: name all of them and write nothing; skip:
    leave it out; black: store a black image, of the size of the first readable one, under its label."""

    def __post_init__(self) -> None:
        if self.write_mode not in WRITE_MODES:
            raise unknown_name("write mode", self.write_mode, WRITE_MODES)
        if self.on_bad_image not in BAD_IMAGE_POLICIES:
            raise unknown_name("policy for bad images", self.on_bad_image, BAD_IMAGE_POLICIES)
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


def page_for(largest: int) -> int:
    """Bytes of a page: a power of two that holds an image of `largest` bytes, for none may lie across a
    page's end."""
    return max(SMALLEST_PAGE, 1 << (largest - 1).bit_length())


@dataclass
class Chunk:
    """Some samples in a row, ready to be written."""

    count: int
    """How many samples it was made of, stored or not."""
    rows: NDArray[np.void]
    """Metadata (beton_format.SAMPLE) of those stored, `start` still empty."""
    data: list[bytes] = field(default_factory=list)
    checksums: list[int] = field(default_factory=list)
    """CRC-32 of each image's bytes."""
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, 256), np.int64))
    """How often each value of each channel occurs in the pixels."""
    bad: list[str] = field(default_factory=list)
    """Samples that cannot be read or stored, each with the reason."""


@dataclass
class Encoder:
    """Turns samples into bytes; one in each worker process."""

    samples: Samples
    options: WriteOptions
    black: Pixels | None = None
    """What takes the place of a bad image; None leaves it out."""

    def __call__(self, first: int, last: int) -> Chunk:
        """Encode samples first .. last-1."""
        chunk = Chunk(last - first, np.zeros(last - first, fmt.SAMPLE))
        for index in range(first, last):
            try:
                self._add(chunk, index, self.samples.image(index))
            except ImageError as error:
                chunk.bad.append(str(error))
                if self.black is not None:
                    self._add(chunk, index, self.black)
        chunk.rows = chunk.rows[: len(chunk.data)]
        return chunk

    def _add(self, chunk: Chunk, index: int, image: Pixels) -> None:
        image = _shrink(image, self.options.max_resolution)
        height, width = image.shape[:2]
        mode = self._mode(index)
        name = self.samples.name(index)
        if max(height, width) > MAX_SIDE:
            raise _too_large(name, width, height)
        data = image.tobytes() if mode == fmt.RAW else _jpeg(image, self.options.quality)
        if len(data) > LARGEST_PAGE:
            raise _too_large(name, width, height)
        row = chunk.rows[len(chunk.data)]
        row["image"]["mode"], row["image"]["height"], row["image"]["width"] = mode, height, width
        row["label"] = self.samples.labels[index]
        chunk.data.append(data)
        chunk.checksums.append(zlib.crc32(data))
        for channel in range(3):
            chunk.histogram[channel] += np.bincount(image[..., channel].reshape(-1), minlength=256)

    def _mode(self, index: int) -> int:
        if self.options.write_mode != "proportion":
            return fmt.JPEG if self.options.write_mode == "jpg" else fmt.RAW
        draw = uniform_draws(self.options.seed, 0, np.array([index]), 1)[0, 0]
        return fmt.JPEG if draw < self.options.compress_probability else fmt.RAW


@dataclass(frozen=True)
class Written:
    """What is known of a file after writing it."""

    histogram: NDArray[np.int64]
    """How often each value of each channel occurs in the pixels, shape (3, 256)."""
    checksums: NDArray[np.uint32]
    """CRC-32 of each stored image's bytes, shape (num_stored,)."""
    bad: tuple[str, ...]
    """Samples left out or stored as black, each with the reason."""


def write(
    path: Path, samples: Samples, options: WriteOptions, workers: int, on_progress: Callable[[int], object]
) -> Written:
    """Write all samples to `path`.

    `on_progress` gets the number of samples just done. Raises BetonError that names every bad image,
    once all were tried, where the options say stop or no image is good.
    """
    num_samples = len(samples.labels)
    rows = np.zeros(num_samples, fmt.SAMPLE)
    table = np.zeros(num_samples, fmt.ALLOCATION)
    checksums = np.zeros(num_samples, np.uint32)
    histogram = np.zeros((3, 256), np.int64)
    bad: list[str] = []
    stored = 0
    with open(path, "wb") as file:
        position, page = fmt.METADATA_START + rows.nbytes, SMALLEST_PAGE
        for chunk in map_ranges(_encoder(samples, options), num_samples, workers):
            bad += chunk.bad
            histogram += chunk.histogram
            if not (bad and options.on_bad_image == "stop"):
                part = slice(stored, stored + len(chunk.rows))
                rows[part], checksums[part] = chunk.rows, chunk.checksums
                # What lies across no page's end lies across none of larger pages either.
                page = max(page, page_for(max(map(len, chunk.data), default=1)))
                position = _write_chunk(file, position, page, chunk, rows[part], table[part])
                stored += len(chunk.rows)
            on_progress(chunk.count)
        if bad and (options.on_bad_image == "stop" or len(bad) == num_samples):
            raise fmt.BetonError(
                f"{len(bad)} of {num_samples} images cannot be stored:\n  " + "\n  ".join(bad)
            )
        table["sample"][:stored] = np.arange(stored)
        write_tables(file, position, page, rows[:stored], table[:stored])
    return Written(histogram, checksums[:stored], tuple(bad))


def compare(
    path: Path, samples: Samples, options: WriteOptions, workers: int, on_progress: Callable[[int], object]
) -> None:
    """Read all samples once more and hold what they become against what `path` holds; raises BetonError
    with the samples that differ.

    As the same input gives the same bytes, this finds what changed between the reading and the disk.
    """
    stored = BetonSamples(fmt.read_table(path))
    table, different, first = stored.table, list[int](), 0
    columns = (table.modes, table.heights, table.widths, table.labels)
    for chunk in map_ranges(_encoder(samples, options), len(samples.labels), workers):
        for index, (row, data) in enumerate(zip(chunk.rows, chunk.data, strict=True), first):
            image = row["image"]
            expected = (image["mode"], image["height"], image["width"], row["label"])
            if (
                index >= len(table)
                or tuple(column[index] for column in columns) != expected
                or stored.stored(index) != data
            ):
                different.append(index)
        first += len(chunk.rows)
        on_progress(chunk.count)
    if different or first != len(table):
        raise fmt.BetonError(
            f"{path}: {len(different)} of its {len(table)} images are not what {first} source images become "
            f"(first: sample {different[0] if different else first}); is the source changing, or the disk or "
            "memory faulty?"
        )


def _encoder(samples: Samples, options: WriteOptions) -> Encoder:
    if options.on_bad_image != "black":
        return Encoder(samples, options)
    for index in range(len(samples.labels)):
        try:
            return Encoder(samples, options, black=np.zeros_like(samples.image(index)))
        except ImageError:
            continue
    return Encoder(samples, options)


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


def write_tables(
    file: BinaryIO, table_start: int, page_size: int, rows: NDArray[np.void], table: NDArray[np.void]
) -> None:
    """Write the allocation table at `table_start`, then what precedes the data; with it the file is whole."""
    fields = np.zeros(len(fmt.FIELDS), fmt.FIELD)
    fields["name"], fields["type"] = zip(*((name.encode(), kind) for name, kind in fmt.FIELDS), strict=True)
    file.seek(table_start)
    file.write(table.tobytes())
    file.seek(0)
    header = np.array((fmt.VERSION, len(fields), page_size, len(rows), table_start), fmt.HEADER)
    file.write(header.tobytes() + fields.tobytes() + rows.tobytes())


def _too_large(name: str, width: int, height: int) -> ImageError:
    return ImageError(f"{name}: {width}x{height} pixels are too many to store; set a maximum resolution")


def _shrink(image: Pixels, max_resolution: int | None) -> Pixels:
    height, width = image.shape[:2]
    longest = max(height, width)
    if max_resolution is None or longest <= max_resolution:
        return image
    size = (max(1, round(width * max_resolution / longest)), max(1, round(height * max_resolution / longest)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _jpeg(image: Pixels, quality: int) -> bytes:
    buffer = io.BytesIO()
    blocks = _restart_interval(image.shape[1])
    Image.fromarray(image).save(
        buffer, "JPEG", quality=quality, subsampling="4:2:0", restart_marker_blocks=blocks
    )
    return buffer.getvalue()


def _restart_interval(width: int) -> int:
    """How many blocks of 16x16 pixels lie between two restart markers, the places where a decoder can start.

    For the part that a crop needs to be a JPEG of its own (`loaders/jpeg_part.py`), they must divide a row of
    blocks evenly. One block takes 4 % more bytes than none, two 1.6 %, four 1 %.
    """
    in_row = -(-width // 16)
    return next((blocks for blocks in range(2, 8) if in_row % blocks == 0), 1)
