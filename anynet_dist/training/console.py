"""What a person sees of a run: one line a record, and a progress bar on a terminal."""

from __future__ import annotations

import logging
import math
from datetime import timedelta
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from anynet_dist.runs.metrics_log import Record
from anynet_dist.system import distributed
from anynet_dist.system.logging import console

logger = logging.getLogger(__name__)


class ProgressBar:
    """A bar over all steps of the run on rank 0's terminal; nothing elsewhere."""

    def __init__(self, total_steps: int, done: int) -> None:
        shown = distributed.is_main() and console.is_terminal
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not shown,
        )
        self.task = self.progress.add_task("training", total=total_steps, completed=done)

    def __enter__(self) -> ProgressBar:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def advance(self) -> None:
        """One step is done."""
        self.progress.advance(self.task)


def train_line(record: Record, epochs: int, total_steps: int) -> str:
    """The console line of a training record."""
    eta = timedelta(seconds=round(record["eta_seconds"]))
    loss, top1 = (math.nan if record[key] is None else record[key] for key in ("train/loss", "train/top1"))
    return (
        f"epoch {record['epoch']}/{epochs}  step {record['step']}/{total_steps}"
        f"  loss {loss:.4f}  top-1 {top1:6.2%}  lr {record['lr']:.4g}"
        f"  {record['images_per_second']:,.0f} img/s  data wait {record['data_wait']:.0%}  ETA {eta}"
    )


def scores_line(record: Record, split: str) -> str:
    """The console line of an evaluation record."""
    parts = [f"{split}: top-1 {record[f'{split}/top1']:.2%}, top-5 {record[f'{split}/top5']:.2%}"]
    parts.append(f"loss {record[f'{split}/loss']:.4f}")
    found, classes = record[f"{split}/classes_predicted"], len(record[f"{split}/class_top1"])
    if record[f"{split}/largest_class"] > 2 / max(classes, 1):  # classes differ in size: top-1 hides it
        parts.append(f"balanced top-1 {record[f'{split}/balanced_top1']:.2%}")
    if found < classes:
        parts.append(f"{found} of {classes} classes predicted")
    for key, label in (("ema_", "EMA"), ("flip_", "with test-time flip"), ("ema_flip_", "EMA with flip")):
        if f"{split}/{key}top1" in record:
            parts.append(f"{label} top-1 {record[f'{split}/{key}top1']:.2%}")
    return f"epoch {record['epoch']}  " + ", ".join(parts)
