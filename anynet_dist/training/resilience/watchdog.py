"""A thread that ends a process which was asked to stop and cannot, and names what has come to a standstill.

Python handles a signal between two of its own instructions: a process that waits inside a library, for a
rank that never comes or a worker that hangs, would not notice. The operating system's part of the handler
does, and wakes this thread.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import CodeType, FrameType
from typing import NamedTuple

import psutil

from anynet_dist.system import distributed
from anynet_dist.training.resilience.faults import Peer, unwell
from anynet_dist.training.resilience.flight_recorder import FlightRecorder

logger = logging.getLogger(__name__)

TICK_S = 0.5
SETUP_GRACE_S = 3.0
"""For a process that has nothing to save yet."""
SECOND_GRACE_S = 2.0
"""After a second request."""
DATA_GRACE_S = 10.0
LONG_GRACE_S = 30.0
"""For a wait for other ranks, for the first batch, and for work that stands still."""
SAVE_GRACE_S = 600.0
"""For a checkpoint, which may be large and its disk slow."""
STANDSTILL_S = 60.0
"""From then on, a standstill is reported."""

# Where a process waits for others, by parts of file names; whatever else it does is work of its own.
WAITS = {
    "a checkpoint": ("/anynet_dist/training/saver.py", "/anynet_dist/training/checkpointing.py"),
    "the other ranks": ("/torch/distributed/", "/accelerate/utils/operations.py", "/torch/autograd/graph.py"),
    "data": ("/torch/utils/data/", "/anynet_dist/data/", "/multiprocessing/"),
}


class Place(NamedTuple):
    """Where the main thread stands."""

    waits_for: str | None
    """One of WAITS, None for work of its own."""
    stack: tuple[tuple[CodeType, int], ...]
    """The calls, outermost first, down to the one that waits."""
    line: str

    @classmethod
    def of_main_thread(cls) -> Place:
        """Where it is right now."""
        frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
        frames: list[FrameType] = []
        while frame is not None:
            frames.insert(0, frame)
            frame = frame.f_back
        waits_for = None
        for depth, each in enumerate(frames):
            waits_for = _kind_of_wait(each.f_code.co_filename)
            if waits_for:
                frames = frames[: depth + 1]
                break
        stack = tuple((each.f_code, each.f_lasti) for each in frames)
        innermost = frames[-1] if frames else None
        code = innermost.f_code if innermost else None
        line = f"{code.co_filename}:{innermost.f_lineno} ({code.co_name})" if code and innermost else "?"
        return cls(waits_for, stack, line)


def _kind_of_wait(file: str) -> str | None:
    found = (kind for kind, parts in WAITS.items() if any(part in file for part in parts))
    kind = next(found, None)
    # In one process the backward pass waits for nobody.
    return None if kind == "the other ranks" and distributed.world_size() == 1 else kind


class Watchdog:
    """Watches the main thread from `start` until `stop`.

    A request to stop that the main thread does not follow ends the process: at once when nothing is to be
    saved yet or another request has come, else when the main thread has waited in one place too long for
    what does not come. A wait for other ranks or a standstill without a request is reported once.
    """

    def __init__(self, numbers: list[int], launcher_is_gone: Callable[[], bool]) -> None:
        self.numbers, self.launcher_is_gone = set(numbers), launcher_is_gone
        self.training = False
        """Whether there is something to save."""
        self.beats = 0
        """Counts batches: as long as it moves, so does the main thread."""
        self._last_beat, self._longest = 0.0, 0.0
        self.peers: list[Peer] = []
        self.before_end: Callable[[int, str], None] = lambda number, why: None
        """Called with signal and reason before the process is ended."""
        self.recorder: FlightRecorder | None = None
        self.requests: list[tuple[int, float]] = []
        self._place: tuple[int, Place] | None = None
        self._since = time.monotonic()
        self._reported = False
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._previous = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """A batch is done."""
        now = time.monotonic()
        if self.beats:
            self._longest = max(self._longest, now - self._last_beat)
        self.beats, self._last_beat = self.beats + 1, now

    def stop(self) -> None:
        """End the thread; does nothing the second time."""
        if self._ended.is_set():
            return
        self._ended.set()
        signal.set_wakeup_fd(self._previous)
        os.write(self._write, b"\0")
        self._thread.join()
        os.close(self._read)
        os.close(self._write)

    def _watch(self) -> None:
        while not self._ended.is_set():
            if select.select([self._read], [], [], TICK_S)[0]:
                now = time.monotonic()
                received = os.read(self._read, 4096)
                self.requests += [(number, now) for number in received if number in self.numbers]
                if signal.SIGQUIT in received:
                    self._record("SIGQUIT", Place.of_main_thread())
            if not self.requests and self.launcher_is_gone():
                self.requests.append((signal.SIGTERM, time.monotonic()))
            self._look()

    def _look(self) -> None:
        here = (self.beats, Place.of_main_thread())
        if here != self._place:
            self._place, self._since, self._reported = here, time.monotonic(), False
        seconds, place = time.monotonic() - self._since, here[1]
        if self.requests and self._is_overdue(place, seconds):
            self._end(place, seconds)
        elif seconds > STANDSTILL_S and not self._reported:
            self._reported = True
            logger.warning("%s", self._describe(place, seconds))
            self._record("a standstill", place)

    def _record(self, why: str, place: Place) -> None:
        if self.recorder:
            facts = {
                "waits_for": place.waits_for,
                "at": place.line,
                "seconds": round(time.monotonic() - self._since, 1),
                "batches": self.beats,
            }
            self.recorder.record(why, facts, asks_others=why == "SIGQUIT")

    def _is_overdue(self, place: Place, seconds: float) -> bool:
        first, last = self.requests[0][1], self.requests[-1][1]
        waited = min(seconds, time.monotonic() - first)
        if self._is_insisted_on():
            return time.monotonic() - last > SECOND_GRACE_S
        if not self.training:
            return waited > SETUP_GRACE_S
        if place.waits_for in ("the other ranks", "a checkpoint") and unwell(self.peers):
            return waited > SECOND_GRACE_S
        if place.waits_for == "the other ranks" and last - first > 1:
            return waited > SECOND_GRACE_S
        grace = {"data": DATA_GRACE_S if self.beats else LONG_GRACE_S, "a checkpoint": SAVE_GRACE_S}
        return waited > max(grace.get(place.waits_for or "", LONG_GRACE_S), 3 * self._longest)

    def _is_insisted_on(self) -> bool:
        """Whether Ctrl-C was pressed a second time; a launcher passes the first one on within a second."""
        pressed = [moment for number, moment in self.requests if number == signal.SIGINT]
        return bool(pressed) and pressed[-1] - self.requests[0][1] > 1

    def _describe(self, place: Place, seconds: float) -> str:
        if place.waits_for is None:
            return f"rank {distributed.rank()} has not moved for {seconds:.0f} s, at {place.line}"
        known = unwell(self.peers)
        names = f": {', '.join(known)}" if known else ""
        what = f"rank {distributed.rank()} has waited {seconds:.0f} s for {place.waits_for}"
        return f"{what}, at {place.line}{names}"

    def _end(self, place: Place, seconds: float) -> None:
        number = self.requests[0][0]
        received = f"received {signal.Signals(number).name}"
        why = f"{received} and cannot stop in order: {self._describe(place, seconds)}"
        self._record(why, place)
        last_words = threading.Thread(target=self._last_words, args=(number, why), daemon=True)
        last_words.start()
        last_words.join(SECOND_GRACE_S)  # even writing them may hang
        for child in psutil.Process().children(recursive=True):
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue
        os._exit(128 + number)

    def _last_words(self, number: int, why: str) -> None:
        with suppress(OSError):  # nobody may be listening
            os.write(2, f"anynet: error: {why}; ended without saving\n".encode())
        self.before_end(number, why)
