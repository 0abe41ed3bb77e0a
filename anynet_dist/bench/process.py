"""A loader in a process of its own, to be measured.

In one process loaders change each other's speed: FFCV sets the number of threads of torch, ours how memory is
kept, and a process that runs numba's threads cannot be forked.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import psutil

MakeLoader = Callable[[], Iterable[Any]]
"""Makes a loader; it can be pickled."""


class Epoch(NamedTuple):
    """What an epoch took."""

    images: int
    seconds: float
    cpu_seconds: float
    """Those of the loader's worker processes included."""


class LoaderProcess:
    """Holds a loader and runs epochs when asked to; it is being made while others are."""

    def __init__(self, make: MakeLoader) -> None:
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._made = self._pool.submit(_make, make)

    def wait(self) -> None:
        """Return when the loader is made; raises what its making raised."""
        self._made.result()

    def epoch(self) -> Epoch:
        """Run and measure an epoch."""
        return self._pool.submit(_epoch).result()

    def close(self) -> None:
        """End the process and those of the loader."""
        self._pool.submit(_close).result()
        self._pool.shutdown()


_loader: Any = None


def _make(make: MakeLoader) -> None:
    global _loader
    _loader = make()


def _epoch() -> Epoch:
    start, cpu_start = time.perf_counter(), cpu_seconds()
    images = sum(len(labels) for _, labels in _loader)
    return Epoch(images, time.perf_counter() - start, max(cpu_seconds() - cpu_start, 0.01))  # a clock tick


def _close() -> None:
    global _loader
    getattr(_loader, "close", lambda: None)()
    _loader = None


def cpu_seconds() -> float:
    """Processor time of this process and of those that it started, also of those that have ended."""
    this = psutil.Process(os.getpid())
    own, others = this.cpu_times(), [process.cpu_times() for process in this.children(recursive=True)]
    ended = getattr(own, "children_user", 0.0) + getattr(own, "children_system", 0.0)
    return time.process_time() + ended + sum(each.user + each.system for each in others)
