"""A trace of some training steps, for a profiler's viewer."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

logger = logging.getLogger(__name__)


class StepProfiler:
    """Records steps START+1 to STOP on rank 0 into `folder`, as Chrome trace JSON (Perfetto shows it)."""

    def __init__(self, steps: str | None, folder: Path, done: int, on_main: bool) -> None:
        """`steps` is train.profile, `START:STOP`; `done` are the steps that the run has already taken."""
        self.start, self.stop = (int(step) for step in (steps or "0:0").split(":"))
        self.folder = folder
        self.running: profile | None = None
        self.wanted = bool(steps) and on_main
        if self.wanted and done > self.start:
            logger.warning("train.profile %s has no effect: the run is already at step %d", steps, done)
            self.wanted = False
        self.after_step(done)

    def after_step(self, step: int) -> None:
        """Start or finish the trace where this step is the one to do so after."""
        if self.wanted and step == self.start:
            activities = [ProfilerActivity.CPU]
            activities += [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self.running = profile(activities=activities)
            self.running.start()
        elif self.running is not None and step >= self.stop:
            self._write(step)

    def close(self) -> None:
        """Write what was recorded, where the run ends before STOP."""
        if self.running is not None:
            self._write(None)

    def _write(self, step: int | None) -> None:
        assert self.running is not None
        running, self.running = self.running, None
        running.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"steps_{self.start + 1}_to_{step if step is not None else 'end'}.json"
        running.export_chrome_trace(str(file))
        logger.info("profile: %s (chrome://tracing or ui.perfetto.dev show it)", file)
