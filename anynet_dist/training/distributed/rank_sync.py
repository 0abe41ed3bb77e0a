"""Ranks synchronise about once per second, at a step that all know beforehand, to agree on what to do next.

Synchronising at each step would make host and device wait for each other; so the ranks count steps, and agree
each time on the number until the next.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from accelerate import Accelerator

from anynet_dist.runs.progress import Progress
from anynet_dist.training.resilience.nonfinite import BadStepCounts, BadSteps, NonFiniteGuard
from anynet_dist.training.resilience.stop_requests import StopRequests
from anynet_dist.training.save_rule import SaveRule

SYNC_S = 1.0


class Agreed(NamedTuple):
    """What all ranks do after a step."""

    stop: int = 0
    """The number of the signal or limit that asks to stop, 0 for none (see stop_requests.reason)."""
    save: bool = False
    saving: int = 0
    """The largest saver.Stage of all ranks."""
    synchronised: bool = False
    """Whether the ranks exchanged anything."""


class RankSync:
    """Exchanges numbers between the ranks, and knows when the next exchange is due."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.interval = 1
        self.steps = 0
        self.started = time.perf_counter()

    def due(self) -> bool:
        """Whether to synchronise after this step; to be asked once per step."""
        self.steps += 1
        return self.steps >= self.interval

    def maxima(self, *values: float) -> list[float]:
        """The largest of each value over all ranks; called on every rank. Waits for the device."""
        seconds = (time.perf_counter() - self.started) / self.steps if self.steps else 0.0
        mine = torch.tensor([[seconds, *values]], device=self.accelerator.device, dtype=torch.float32)
        slowest, *largest = self.accelerator.gather(mine).amax(0).tolist()
        self.interval = min(2 * self.interval, max(1, int(SYNC_S / max(slowest, 1e-6))))
        self.steps, self.started = 0, time.perf_counter()
        return list(largest)


class StepAgreement:
    """Agrees after a step on stopping, on saving, and on whether the numbers are still finite."""

    def __init__(
        self,
        sync: RankSync,
        requests: StopRequests,
        rule: SaveRule,
        bad_steps: BadSteps,
        guard: NonFiniteGuard,
    ) -> None:
        self.sync, self.requests, self.rule = sync, requests, rule
        self.bad_steps, self.guard = bad_steps, guard

    def after_step(self, progress: Progress, log_now: bool, saving: int = 0) -> Agreed:
        """What to do now; called on every rank, which exchange something only when it is due.

        `saving` is this rank's saver.Stage.
        Counts bad steps in `progress`. Raises NotFiniteError, on all ranks, where the run cannot continue.
        """
        save = self.rule.by_steps(progress)
        if not (self.sync.due() or log_now or save):
            return Agreed()
        counts = self.bad_steps.read()
        own = (self.requests.pending(), self.rule.by_time(), saving, *counts)
        stop, by_time, saving_all, *agreed = self.sync.maxima(*own)
        self._check_numbers(BadStepCounts(*map(int, agreed)), progress)
        return Agreed(int(stop), save or bool(by_time), int(saving_all), synchronised=True)

    def _check_numbers(self, counts: BadStepCounts, progress: Progress) -> None:
        if counts.new:
            progress.bad_steps += counts.new
            (damaged,) = self.sync.maxima(self.guard.damaged())
            self.guard.check(counts, bool(damaged), progress)
