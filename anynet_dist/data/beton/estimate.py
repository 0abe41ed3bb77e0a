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

from anynet_dist.data.beton import format as fmt
from anynet_dist.data.beton.writer import SMALLEST_PAGE, Encoder, WriteMode, WriteOptions
from anynet_dist.data.decoding import import_decoders
from anynet_dist.data.samples import Samples
from anynet_dist.system.errors import UserError

logger = logging.getLogger(__name__)

MOST_SAMPLED = 256
LEAST_SAMPLED = 32
"""So many are encoded however long it takes: a few may be of any size."""
MOST_SECONDS = 1.5
WORTH_TELLING_S = 60


@dataclass(frozen=True)
class Estimate:
    """What a build is expected to take."""

    num_samples: int
    sampled: int
    """Images looked at; 0 when none of those tried could be read."""
    size: int
    """Bytes of the file."""
    uncertainty: int
    """Bytes that the file may take less or more: twice the standard error of the size."""
    seconds: float
    """Of reading and encoding, with all workers."""


def estimate(samples: Samples, options: WriteOptions, workers: int) -> Estimate:
    """Encode up to 256 images, spread over the data, for each way of storing them: after 1.5 seconds no more
    than 32."""
    count = len(samples.labels)
    fractions: dict[WriteMode, float] = {"raw": 1.0}
    if options.write_mode != "raw":
        part = options.compress_probability if options.write_mode == "proportion" else 1.0
        fractions = {"jpg": part, "raw": 1 - part}
    size = seconds = variance = 0.0
    sampled = 0
    for mode, fraction in fractions.items():
        if fraction == 0:
            continue
        sizes, mean_seconds = _sample(samples, replace(options, write_mode=mode))
        sampled = len(sizes)
        size += fraction * float(np.mean(sizes)) if sizes else 0.0
        seconds += fraction * mean_seconds
        if 1 < sampled < count:
            variance += fraction**2 * float(np.var(sizes, ddof=1)) / sampled * (1 - sampled / count)
    # No image lies across a page's end, so about half an image is left free in each page.
    page = max(SMALLEST_PAGE, 1 << round(size).bit_length())
    padded = size * (1 + size / 2 / page)
    tables = fmt.METADATA_START + count * (fmt.SAMPLE.itemsize + fmt.ALLOCATION.itemsize)
    expected = round(count * padded) + tables
    return Estimate(count, sampled, expected, round(2 * count * variance**0.5), count * seconds / workers)


def _sample(samples: Samples, options: WriteOptions) -> tuple[list[int], float]:
    """The bytes of each image encoded, and the mean of their seconds."""
    encoder, count = Encoder(samples, options), len(samples.labels)
    chosen = np.random.default_rng(0).permutation(
        np.linspace(0, count - 1, min(count, MOST_SAMPLED)).astype(int)
    )
    import_decoders()  # which takes longer than many images
    sizes: list[int] = []
    tried, start = 0, time.perf_counter()
    for index in chosen.tolist():
        sizes += map(len, encoder(index, index + 1).data)
        tried += 1
        if tried >= LEAST_SAMPLED and time.perf_counter() - start > MOST_SECONDS:
            break
    return sizes, (time.perf_counter() - start) / tried


def check_room(path: Path, expected: Estimate) -> None:
    """Log what is expected; raises UserError, with the numbers, when the disk is surely too small for it."""
    free = shutil.disk_usage(path.parent).free
    time_needed = f" and {duration(expected.seconds)}" if expected.seconds > WORTH_TELLING_S else ""
    logger.info(
        "%s: expected to take %s%s for %s images, by %d of them; %s free",
        path,
        gibibytes(expected.size),
        time_needed,
        f"{expected.num_samples:,}",
        expected.sampled,
        gibibytes(free),
    )
    if expected.size - expected.uncertainty > free:
        raise UserError(
            f"{path}: needs about {gibibytes(expected.size)} ({expected.num_samples:,} images, by "
            f"{expected.sampled} of them), but {path.parent} has {gibibytes(free)} free; 'anynet data plan' "
            "shows which profile fits"
        )
    if 1.1 * expected.size > free:
        logger.warning("%s: %s has about as much room as that, perhaps less", path, path.parent)


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
