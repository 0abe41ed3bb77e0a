"""The largest batch that a device's memory holds: tried on a GPU, estimated on a CPU."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import psutil
import torch

from anynet_dist.bench.results import Row
from anynet_dist.bench.steps import Step, Variant
from anynet_dist.models.anynet import build_anynet
from anynet_dist.models.limits import MOST_BATCH
from anynet_dist.models.memory import Optimizer, training_memory
from anynet_dist.models.vocabulary import network_spec
from anynet_dist.system.errors import UserError
from anynet_dist.system.ranges import Precision

GIB = 2**30
SHARE = 0.9
"""Of the memory that is free: what the estimate leaves out, and what others take, needs some too."""


def largest(fits: Callable[[int], bool], most: int = MOST_BATCH) -> int:
    """The largest number up to `most` that fits, 0 for none: doubled while it fits, then halved in between to
    a sixteenth of it."""
    if not fits(1):
        return 0
    good = 1
    while 2 * good <= most and fits(2 * good):
        good *= 2
    bad = min(2 * good, most + 1)
    while bad - good > max(1, good // 16):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def fit_on_cpu(
    model: dict[str, Any], resolution: int, precisions: tuple[Precision, ...], optimizer: Optimizer
) -> list[Row]:
    """A row for each precision: the largest batch whose estimate is 90 % of the free memory at most."""
    spec, free = network_spec(**model), psutil.virtual_memory().available
    rows: list[Row] = []
    for precision in precisions:

        def needed(batch: int, precision: Precision = precision) -> int:
            return training_memory(spec, resolution, batch, precision, optimizer).total

        two, four = needed(2), needed(4)  # what an image adds does not depend on the others
        each = (four - two) // 2
        fixed = two - 2 * each
        batch = max(0, min(MOST_BATCH, int((SHARE * free - fixed) // each)))
        rows.append(
            {
                "precision": precision,
                "batch": batch,
                "memory_gib": needed(batch) / GIB if batch else None,
                "free_gib": free / GIB,
                "how": "estimated",
            }
        )
    return rows


def fit_on_gpu(
    model: dict[str, Any],
    resolution: int,
    precisions: tuple[Precision, ...],
    memory_format: str,
    device: torch.device,
) -> list[Row]:
    """A row for each precision: the largest batch with which training steps ran, found by trying."""
    rows: list[Row] = []
    for precision in precisions:
        variant = Variant(
            network="ours", work="train", compile="off", memory_format=memory_format, precision=precision
        )
        peaks: dict[int, float] = {}

        def fits(batch: int, variant: Variant = variant, peaks: dict[int, float] = peaks) -> bool:
            peak = _peak(model, (batch, 3, resolution, resolution), variant, device)
            if peak is not None:
                peaks[batch] = peak
            return peak is not None

        batch = largest(fits)
        free, _ = torch.cuda.mem_get_info(device)
        rows.append(
            {
                "precision": precision,
                "batch": batch,
                "memory_gib": peaks.get(batch),
                "free_gib": free / GIB,
                "how": "tried",
            }
        )
    return rows


def _peak(
    model: dict[str, Any], shape: tuple[int, int, int, int], variant: Variant, device: torch.device
) -> float | None:
    """GiB that training steps take at their peak; None where memory runs out."""
    try:
        torch.cuda.reset_peak_memory_stats(device)
        images = torch.zeros(shape, device=device)
        Step(build_anynet(**model), variant, images, model["num_classes"]).warm_up()
        return torch.cuda.max_memory_allocated(device) / GIB
    except torch.OutOfMemoryError:
        return None
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def check_fits(rows: list[Row]) -> None:
    """Raise UserError where not even one image fits."""
    if not any(row["batch"] for row in rows):
        raise UserError(f"not even one image fits into the {rows[0]['free_gib']:.1f} GiB that are free")
