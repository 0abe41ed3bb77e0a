"""Requests to stop: signals and time limits set a flag; all ranks agree on it about once a second."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from types import FrameType

import torch
from accelerate import Accelerator

from anynet_dist.config.durations import parse_duration
from anynet_dist.config.schema import RunConfig

logger = logging.getLogger(__name__)

TIME_LIMIT, JOB_LIMIT = 1001, 1002
REASONS = {TIME_LIMIT: "run.max_time is reached", JOB_LIMIT: "the SLURM job's time limit is near"}
MEETING_S = 1.0
SECOND_PRESS_S = 1.0


class StopRequests:
    """Notes requests to stop from its making until `close`: signals to this process, and the time limits.

    SIGINT a second time, a second or more after the first (a launcher passes on the first one), raises
    KeyboardInterrupt at once.
    """

    def __init__(self, config: RunConfig) -> None:
        self.signal = 0
        self.noted = 0.0
        self.limits = _time_limits(config)
        numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", config.stop_signal)]
        if threading.current_thread() is not threading.main_thread():
            logger.warning("not in the main thread: signals do not stop this run")
            numbers = []
        self.previous = {number: signal.signal(number, self._note) for number in numbers}

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self.signal and time.monotonic() - self.noted >= SECOND_PRESS_S
        if number == signal.SIGINT and again:
            raise KeyboardInterrupt
        if not self.signal:
            self.signal, self.noted = number, time.monotonic()

    def pending(self) -> int:
        """The number of the signal or of the limit that asks this rank to stop, 0 for none."""
        now = time.time()
        reached = (code for code, limit in self.limits.items() if now >= limit)
        return self.signal or next(reached, 0)

    def close(self) -> None:
        """Leave signals to whoever had them before."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def _time_limits(config: RunConfig) -> dict[int, float]:
    """When to stop, in seconds since the epoch, by the kind of limit."""
    limits = {}
    if config.max_time:
        limits[TIME_LIMIT] = time.time() + parse_duration(config.max_time) - config.stop_margin
    if "SLURM_JOB_END_TIME" in os.environ:
        limits[JOB_LIMIT] = float(os.environ["SLURM_JOB_END_TIME"]) - config.stop_margin
    for limit in limits.values():
        left = max(0.0, limit - time.time()) / 60
        logger.info("the run saves and stops, to be resumed, in %.0f minutes at the latest", left)
    return limits


def reason(code: int) -> str:
    """In words, why a run stops."""
    return REASONS.get(code) or f"received {signal.Signals(code).name}"


class Meetings:
    """Ranks meet about once a second, at a step that all know beforehand, to agree on what to do.

    Meeting at each step would make host and device wait for each other; so the ranks count steps, and
    agree at each meeting on the number until the next.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.interval = 1
        self.steps = 0
        self.started = time.perf_counter()

    def due(self) -> bool:
        """Whether to meet after this step; to be asked once a step."""
        self.steps += 1
        return self.steps >= self.interval

    def meet(self, *values: float) -> list[float]:
        """The largest of each value over all ranks."""
        seconds = (time.perf_counter() - self.started) / self.steps if self.steps else 0.0
        mine = torch.tensor([[seconds, *values]], device=self.accelerator.device, dtype=torch.float32)
        slowest, *agreed = self.accelerator.gather(mine).amax(0).tolist()
        self.interval = min(2 * self.interval, max(1, int(MEETING_S / max(slowest, 1e-6))))
        self.steps, self.started = 0, time.perf_counter()
        return list(agreed)
