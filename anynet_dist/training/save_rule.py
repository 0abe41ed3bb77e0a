"""When a run saves a checkpoint: checkpoint.every, by steps, minutes or epochs."""

from __future__ import annotations

import time

from anynet_dist.config.durations import parse_interval
from anynet_dist.runs.progress import Progress


class SaveRule:
    """Answers after each step and each epoch whether to save; the end and the best epoch save in any case."""

    def __init__(self, every: str | int) -> None:
        self.every = parse_interval(every)
        self.saved()

    def saved(self) -> None:
        """A checkpoint was just saved, or tried to be: minutes count from here."""
        self.saved_at = time.monotonic()

    def by_steps(self, progress: Progress) -> bool:
        """Whether the number of steps is one to save at; the same on all ranks."""
        return self.every.unit == "steps" and progress.step % self.every.amount == 0

    def by_time(self) -> bool:
        """Whether the minutes are over by this rank's clock, on which the ranks must agree."""
        minutes = (time.monotonic() - self.saved_at) / 60
        return self.every.unit == "minutes" and minutes >= self.every.amount

    def at_epoch_end(self, progress: Progress) -> bool:
        """Whether the end of this epoch is a time to save, by the number of epochs or of steps."""
        by_epochs = self.every.unit == "epochs" and progress.epoch % self.every.amount == 0
        return by_epochs or self.by_steps(progress)
