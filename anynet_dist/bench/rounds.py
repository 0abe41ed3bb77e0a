"""Timing of several things beside each other: in every round each of them once, so that whatever else the
machine does meets all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass
class Timing:
    """What the rounds of one subject took, in seconds."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Processor time of all threads: it hardly depends on what else the machine does."""

    @property
    def seconds(self) -> float:
        """The median round."""
        return median(self.wall)

    @property
    def cpu_seconds(self) -> float:
        """The median round's processor time."""
        return median(self.cpu)


def alternate(
    subjects: Mapping[str, Callable[[], object]],
    rounds: int,
    cpu_clock: Callable[[], float] = time.process_time,
) -> dict[str, Timing]:
    """Call each subject once in every round, in turn, every second round in the opposite order.

    A subject has to wait for its device before it returns, and to be warm. `cpu_clock` reads the processor
    time in seconds, by default that of this process.
    """
    timings = {name: Timing() for name in subjects}
    for name in in_turn(list(subjects), rounds):
        wall, cpu = time.perf_counter(), cpu_clock()
        subjects[name]()
        timings[name].wall.append(time.perf_counter() - wall)
        timings[name].cpu.append(cpu_clock() - cpu)
    return timings


def in_turn(names: Sequence[str], rounds: int) -> Iterator[str]:
    """All names once for each round, every second round in the opposite order."""
    for number in range(rounds):
        yield from reversed(names) if number % 2 else names
