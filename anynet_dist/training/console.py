"""What a person sees of a run: one line per epoch, and a progress bar on a terminal."""

from __future__ import annotations

import logging
import math
import time
from datetime import timedelta

from anynet_dist.runs.metrics_log import Record
from anynet_dist.system import distributed
from anynet_dist.system.logging import console, shows_progress
from anynet_dist.system.progress_bar import ProgressBar
from anynet_dist.training.task import Scores, Task

logger = logging.getLogger(__name__)

QUIET_AT_MOST_S = 60.0
"""Seconds without a console line after which a long epoch shows its next training record."""


def training_bar(total_steps: int, done: int) -> ProgressBar:
    """A bar over all steps of the run on rank 0's terminal; invisible elsewhere."""
    visible = distributed.is_main() and console.is_terminal and shows_progress()
    return ProgressBar("training", total_steps, done=done, console=console, transient=True, visible=visible)


class RunLines:
    """The lines of a run: one per epoch, and below the level debug, of training records, one a minute."""

    def __init__(self, task: Task, epochs: int, total_steps: int) -> None:
        self.task, self.epochs, self.total_steps = task, epochs, total_steps
        self.last_line = time.monotonic()
        self._start_epoch()

    def _start_epoch(self) -> None:
        self.record: Record | None = None
        self.images, self.seconds, self.waited, self.loss, self.score = 0, 0.0, 0.0, 0.0, 0.0

    def trained(self, record: Record, scores: Scores, epoch_ends: bool) -> None:
        """A training record was made of `scores`; that at the end of an epoch is left to `epoch_ended`."""
        self.record, seconds = record, scores.count / record["images_per_second"]
        self.images += scores.count
        self.seconds += seconds
        self.waited += record["data_wait"] * seconds
        if scores.count:
            self.loss += scores.count * record["train/loss"]
            self.score += scores.count * record[f"train/{self.task.metric}"]
        overdue = time.monotonic() - self.last_line > QUIET_AT_MOST_S
        level = logging.INFO if overdue and not epoch_ends else logging.DEBUG
        logger.log(level, "%s  %s", self._trained_text(record), _speed_text(record))
        if level == logging.INFO:
            self.last_line = time.monotonic()

    def epoch_ended(self, epoch: int, validation: Record | None) -> None:
        """The line of an epoch: what it trained since the run was started or resumed, then `validation`."""
        parts = [f"epoch {epoch}/{self.epochs}"]
        if self.record:
            parts = [self._trained_text(self._whole_epoch(self.record))]
        if validation:
            parts.append(self.task.summary(validation, "val"))
        if self.record:
            parts.append(_speed_text(self._whole_epoch(self.record)))
        logger.info("%s", "  ".join(parts))
        self.last_line = time.monotonic()
        self._start_epoch()

    def _whole_epoch(self, last: Record) -> Record:
        """The last record with the means over the epoch's images."""
        if not self.images:
            return last
        means = {"train/loss": self.loss, f"train/{self.task.metric}": self.score}
        means = {key: total / self.images for key, total in means.items()}
        speed = self.images / self.seconds
        return last | means | {"images_per_second": speed, "data_wait": self.waited / self.seconds}

    def _trained_text(self, record: Record) -> str:
        keys = ("train/loss", f"train/{self.task.metric}")
        loss, score = (math.nan if record[key] is None else record[key] for key in keys)
        return (
            f"epoch {record['epoch']}/{self.epochs}  step {record['step']}/{self.total_steps}"
            f"  loss {loss:.4f}  {self.task.metric_label} {score:6.2%}"
        )


def _speed_text(record: Record) -> str:
    speed = f"{record['images_per_second']:,.0f} img/s"
    speed += f"  MFU {record['mfu']:.0%}" if "mfu" in record else ""
    eta = timedelta(seconds=round(record["eta_seconds"]))
    return f"lr {record['lr']:.4g}  {speed}  data wait {record['data_wait']:.0%}  ETA {eta}"
