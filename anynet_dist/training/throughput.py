"""Images per second, and the fraction of time spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Batch = TypeVar("Batch")


class Throughput:
    """Measures from one reading, or from `resume`, to the next."""

    def __init__(self) -> None:
        self.resume()

    def resume(self) -> None:
        """Start a new measurement."""
        self.started = time.perf_counter()
        self.waited = 0.0
        self.steps = 0

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; the time that each was waited for is counted."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.waited += time.perf_counter() - asked
            yield batch

    def read(self) -> tuple[float, float]:
        """Seconds per step and the fraction of them spent waiting for data, since the last reading."""
        seconds = time.perf_counter() - self.started
        reading = seconds / max(1, self.steps), self.waited / seconds
        self.resume()
        return reading
