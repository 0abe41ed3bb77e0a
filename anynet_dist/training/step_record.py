"""What a training record holds: loss and score, learning rate, speed, gradient norm, memory, utilisation."""

from __future__ import annotations

import logging
import math
import resource
import sys

import torch
from torch import Tensor

from anynet_dist.models.complexity import network_complexity
from anynet_dist.models.spec import NetworkSpec
from anynet_dist.runs.metrics_log import Record
from anynet_dist.runs.progress import Progress
from anynet_dist.training.mfu import device_peak, utilisation
from anynet_dist.training.task import Scores
from anynet_dist.training.throughput import Throughput

logger = logging.getLogger(__name__)


class StepMeter:
    """Measures steps from one training record to the next.

    The gradient norm stays on the device until a record is made: only then does the host wait for it.
    """

    def __init__(
        self, spec: NetworkSpec, device: torch.device, precision: str, global_batch: int, world_size: int
    ) -> None:
        self.spec, self.device = spec, device
        self.global_batch, self.world_size = global_batch, world_size
        self.peak = device_peak(device, precision)
        self.throughput = Throughput()
        self.gradient_norm: Tensor | None = None
        """Of the last step, before clipping; None where nothing needs it."""

    def record(self, progress: Progress, scores: Scores, metric: str, steps_left: int, side: int) -> Record:
        """The record of the steps since the last one; `side` is that of the training images in pixels."""
        seconds_per_step, data_wait = self.throughput.read()
        values = scores.record("train/") if scores.count else {}
        images_per_second = self.global_batch / seconds_per_step
        record = {
            "step": progress.step,
            "epoch": progress.epoch + 1,
            "train/loss": values.get("train/loss"),
            f"train/{metric}": values.get(f"train/{metric}"),
            "images_per_second": images_per_second,
            "data_wait": data_wait,
            "eta_seconds": steps_left * seconds_per_step,
            "grad_norm": None if self.gradient_norm is None else float(self.gradient_norm),
            "peak_memory_gib": round(peak_memory(self.device) / 2**30, 3),
            "skipped_steps": progress.skipped,
            "bad_steps": progress.bad_steps,
        }
        forward = network_complexity(self.spec, side).flops if self.peak else None
        if self.peak and forward:
            record["mfu"] = utilisation(forward, images_per_second / self.world_size, self.peak)
        return record


def peak_memory(device: torch.device) -> int:
    """The most bytes that this rank's tensors took on a GPU so far; on a CPU, that the process took."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def warn_of_high_loss(scores: Scores, classes: int, lr: float, warmup: float) -> None:
    """A loss far above that of guessing among the classes, in the first record, shows that steps are too
    large."""
    guessing = math.log(max(2, classes))
    if scores.count and scores.loss > 2 * guessing + 1:
        logger.warning(
            "the training loss is %.3g, far above the %.3g of guessing: lower optim.lr (%.3g) or lengthen"
            " schedule.warmup_epochs (%.3g)",
            *(scores.loss, guessing, lr, warmup),
        )
