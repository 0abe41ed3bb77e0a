"""Python's cyclic garbage, collected between steps rather than within them (speed.collect_garbage_every)."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from anynet_dist.training.hooks import Hook, register_hook


@contextmanager
def collected_between_steps(every: int) -> Iterator[Hook]:
    """Within the block garbage is collected only by the hook that is given, after every `every`-th step.

    By itself Python collects at any time, on each rank at another, and each time all ranks wait. What exists
    at the start, such as torch's modules, is not looked through again.
    """
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()

    @register_hook(every=every)
    def collect(trainer: Any) -> None:
        gc.collect()

    try:
        yield collect
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
