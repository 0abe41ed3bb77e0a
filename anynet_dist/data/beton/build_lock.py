"""One build of a file at a time: the lock beside `train.beton` is `.train.beton.lock` and names its owner."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anynet_dist.system.lock import Lock

logger = logging.getLogger(__name__)


@contextmanager
def build_lock(path: Path) -> Iterator[None]:
    """Hold the lock of `path` for the block; raises UserError that names the owner when another build has
    it.

    A lock whose owner is gone is stale and replaced, and what that build left behind is removed. It has no
    heartbeat, because that takes a thread, beside which worker processes would be forked.
    """
    lock = Lock(path.with_name(f".{path.name}.lock"), f"{path}: is being built", heartbeat=False)
    try:
        _remove_leftovers(path)
        yield
    finally:
        lock.release()


def _remove_leftovers(path: Path) -> None:
    for leftover in path.parent.glob(f".{path.name}.*.partial"):
        logger.warning("%s: left by a build that was stopped; removed", leftover)
        leftover.unlink(missing_ok=True)
