"""What a person sees of a run: one line per record, and a progress bar on a terminal."""

from __future__ import annotations

import logging
import math
from datetime import timedelta

from anynet_dist.runs.metrics_log import Record
from anynet_dist.system import distributed
from anynet_dist.system.logging import console
from anynet_dist.system.progress_bar import ProgressBar
from anynet_dist.training.task import Task

logger = logging.getLogger(__name__)


def training_bar(total_steps: int, done: int) -> ProgressBar:
    """A bar over all steps of the run on rank 0's terminal; invisible elsewhere."""
    visible = distributed.is_main() and console.is_terminal
    return ProgressBar("training", total_steps, done=done, console=console, transient=True, visible=visible)


def train_line(record: Record, task: Task, epochs: int, total_steps: int) -> str:
    """The console line of a training record."""
    eta = timedelta(seconds=round(record["eta_seconds"]))
    keys = ("train/loss", f"train/{task.metric}")
    loss, score = (math.nan if record[key] is None else record[key] for key in keys)
    speed = f"{record['images_per_second']:,.0f} img/s"
    speed += f"  MFU {record['mfu']:.0%}" if "mfu" in record else ""
    return (
        f"epoch {record['epoch']}/{epochs}  step {record['step']}/{total_steps}"
        f"  loss {loss:.4f}  {task.metric_label} {score:6.2%}  lr {record['lr']:.4g}"
        f"  {speed}  data wait {record['data_wait']:.0%}  ETA {eta}"
    )
