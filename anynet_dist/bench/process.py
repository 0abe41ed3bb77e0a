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
    start, cpu_start = time.perf_counter(), _cpu_seconds()
    images = sum(len(labels) for _, labels in _loader)
    return Epoch(images, time.perf_counter() - start, max(_cpu_seconds() - cpu_start, 0.01))  # a clock tick


def _close() -> None:
    global _loader
    getattr(_loader, "close", lambda: None)()
    _loader = None


def _cpu_seconds() -> float:
    this = psutil.Process(os.getpid())
    total = 0.0
    for process in (this, *this.children(recursive=True)):
        times = process.cpu_times()
        total += times.user + times.system
    return total
