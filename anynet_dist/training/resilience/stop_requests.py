"""Requests to stop: signals and time limits set a flag; all ranks agree on it about once per second."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from anynet_dist.config.durations import parse_duration
from anynet_dist.config.schema import RunConfig
from anynet_dist.system import distributed
from anynet_dist.system.errors import StoppedEarly
from anynet_dist.training.resilience.faults import Peer
from anynet_dist.training.resilience.flight_recorder import FlightRecorder
from anynet_dist.training.resilience.watchdog import Watchdog

logger = logging.getLogger(__name__)

TIME_LIMIT, JOB_LIMIT, LAUNCHER_GONE = 1001, 1002, 1003
REASONS = {
    TIME_LIMIT: "run.max_time is reached",
    JOB_LIMIT: "the SLURM job's time limit is near",
    LAUNCHER_GONE: "the launcher is gone",
}
# Set for the processes that they start by torch's and by accelerate's launcher.
LAUNCHER_VARIABLES = {"TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION"}
SECOND_PRESS_S = 1.0


_at_work: list[StopRequests] = []


def check_stop(waiting_for: str) -> None:
    """Raise StoppedEarly where this process, which waits before its training, was asked to stop."""
    for requests in _at_work:
        if code := requests.pending():
            raise StoppedEarly(f"{reason(code)} while waiting for {waiting_for}: nothing was trained")


class StopRequests:
    """Notes requests to stop from its making until `close`: signals to this process, and the time limits.

    A launcher that is gone is a request, too: nothing would end or restart the processes that it started.
    SIGINT a second time, a second or more after the first (a launcher passes on the first one), raises
    KeyboardInterrupt at once. `watchdog` ends the process where it cannot follow.
    """

    def __init__(self, config: RunConfig) -> None:
        self.signal = 0
        self.noted = 0.0
        self.limits = _time_limits(config)
        self.launcher = _launcher()
        self.watchdog: Watchdog | None = None
        self.previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            numbers = _signals(config)
            self.previous = {number: signal.signal(number, self._note) for number in numbers}
            if signal.SIGQUIT not in self.previous:  # by default it would end the process
                self.previous[signal.SIGQUIT] = signal.signal(signal.SIGQUIT, lambda *_: None)
            self.watchdog = Watchdog(numbers, self._launcher_is_gone)
            _at_work.append(self)
        else:
            logger.warning("not in the main thread: signals do not stop this run")

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self.signal and time.monotonic() - self.noted >= SECOND_PRESS_S
        if number == signal.SIGINT and again:
            raise KeyboardInterrupt
        if not self.signal:
            self.signal, self.noted = number, time.monotonic()

    def _launcher_is_gone(self) -> bool:
        return self.launcher is not None and os.getppid() != self.launcher

    def pending(self) -> int:
        """The number of the signal or of the limit that asks this rank to stop, 0 for none."""
        now = time.time()
        reached = [code for code, limit in self.limits.items() if now >= limit]
        if self._launcher_is_gone():
            reached.append(LAUNCHER_GONE)
        return self.signal or next(iter(reached), 0)

    def beat(self) -> None:
        """A batch is done: the process moves."""
        if self.watchdog:
            self.watchdog.beat()

    def call_before_end(self, action: Callable[[int, str], None]) -> None:
        """Have `action` called with signal and reason where the process is ended without saving."""
        if self.watchdog:
            self.watchdog.before_end = action

    def watch_peers(self, peers: list[Peer], recorder: FlightRecorder) -> None:
        """The other processes of the run: one that is gone or stopped is named. SIGQUIT and a standstill have
        `recorder` write where this one stands."""
        if self.watchdog:
            self.watchdog.peers, self.watchdog.recorder = peers, recorder

    def training_starts(self) -> None:
        """From here on there is something to save."""
        if self.watchdog:
            self.watchdog.training = True

    def __enter__(self) -> StopRequests:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave signals to whoever had them before."""
        if self.watchdog:
            self.watchdog.stop()
            _at_work.remove(self)
            self.watchdog = None
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def _signals(config: RunConfig) -> list[int]:
    """Those that ask to stop. A terminal that closes sends SIGHUP, which `nohup` has it ignore."""
    names = ["SIGTERM", "SIGINT", config.stop_signal]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        names.append("SIGHUP")
    return [getattr(signal, name) for name in dict.fromkeys(names)]


def _launcher() -> int | None:
    """The process that started this one, where that is torch's or accelerate's launcher."""
    launched = LAUNCHER_VARIABLES & os.environ.keys()
    return os.getppid() if launched else None


def _time_limits(config: RunConfig) -> dict[int, float]:
    """When to stop, in seconds since the epoch, by the kind of limit."""
    limits = {}
    if config.max_time:
        limits[TIME_LIMIT] = time.time() + parse_duration(config.max_time) - config.stop_margin
    if end := distributed.job_end():
        limits[JOB_LIMIT] = end - config.stop_margin
    for limit in limits.values():
        left = max(0.0, limit - time.time()) / 60
        logger.info("the run saves and stops, to be resumed, in %.0f minutes at the latest", left)
    return limits


def reason(code: int) -> str:
    """Why a run stops, for messages."""
    return REASONS.get(code) or f"received {signal.Signals(code).name}"
