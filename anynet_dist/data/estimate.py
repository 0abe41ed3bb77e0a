"""How large a .beton file will be and how long writing it takes, from a sample of its images; and whether
the disk has room."""

from __future__ import annotations

import errno
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anynet_dist.data import beton_format as fmt
from anynet_dist.data.beton_writer import SMALLEST_PAGE, Encoder, WriteMode, WriteOptions
from anynet_dist.data.samples import Samples
from anynet_dist.system.errors import UserError

log = logging.getLogger(__name__)

MOST_SAMPLED = 256
MOST_SECONDS = 1.5


@dataclass(frozen=True)
class Estimate:
    """What a build is expected to take."""

    num_samples: int
    sampled: int
    """Images looked at; 0 when none of those tried could be read."""
    size: int
    """Bytes of the file."""
    seconds: float
    """Of reading and encoding, with all workers."""


def estimate(samples: Samples, options: WriteOptions, workers: int) -> Estimate:
    """Encode up to 256 images, spread over the data, for 1.5 seconds at most for each way of storing them."""
    count = len(samples.labels)
    shares: dict[WriteMode, float] = {"raw": 1.0}
    if options.write_mode != "raw":
        part = options.compress_probability if options.write_mode == "proportion" else 1.0
        shares = {"jpg": part, "raw": 1 - part}
    size = seconds = 0.0
    sampled = 0
    for mode, share in shares.items():
        if share == 0:
            continue
        sampled, mean_size, mean_seconds = _sample(samples, replace(options, write_mode=mode))
        size += share * mean_size
        seconds += share * mean_seconds
    # No image lies across a page's end, so about half an image is left free in each page.
    padded = size * (1 + size / 2 / SMALLEST_PAGE)
    tables = fmt.METADATA_START + count * (fmt.SAMPLE.itemsize + fmt.ALLOCATION.itemsize)
    return Estimate(count, sampled, round(count * padded) + tables, count * seconds / workers)


def _sample(samples: Samples, options: WriteOptions) -> tuple[int, float, float]:
    """Images encoded, and the mean of their bytes and seconds."""
    encoder, count = Encoder(samples, options), len(samples.labels)
    chosen = np.random.default_rng(0).permutation(
        np.linspace(0, count - 1, min(count, MOST_SAMPLED)).astype(int)
    )
    encoder(0, 1)  # imports the decoders
    sizes: list[int] = []
    tried, start = 0, time.perf_counter()
    for index in chosen.tolist():
        sizes += map(len, encoder(index, index + 1).data)
        tried += 1
        if time.perf_counter() - start > MOST_SECONDS:
            break
    seconds = (time.perf_counter() - start) / tried
    return len(sizes), float(np.mean(sizes)) if sizes else 0.0, seconds


def check_room(path: Path, expected: Estimate) -> None:
    """Log what is expected; raises UserError, with the numbers, when the disk is too small for it."""
    free = shutil.disk_usage(path.parent).free
    log.info(
        "%s: expected to take %s and %s for %s images, by %d of them; %s free",
        path,
        gibibytes(expected.size),
        duration(expected.seconds),
        f"{expected.num_samples:,}",
        expected.sampled,
        gibibytes(free),
    )
    if expected.size > free:
        raise UserError(
            f"{path}: needs about {gibibytes(expected.size)} ({expected.num_samples:,} images, by "
            f"{expected.sampled} of them), but {path.parent} has {gibibytes(free)} free; 'anynet data plan' "
            "shows which profile fits"
        )
    if 1.1 * expected.size > free:
        log.warning("%s: %s has room for little more than that", path, path.parent)


@contextmanager
def full_disk_is_named(path: Path) -> Iterator[None]:
    """Turns the system's errors about a full disk, an exceeded quota or file size into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        free = gibibytes(shutil.disk_usage(path.parent).free)
        raise UserError(
            f"{path}: not written: {error.strerror} ({free} free in {path.parent}); nothing of it is left"
        ) from error


def gibibytes(size: float) -> str:
    """A size in GiB, or in MiB when small."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def duration(seconds: float) -> str:
    """A time in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
