"""What a run learns: what a batch is, the loss, and the scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from anynet_dist.system.errors import UserError
from anynet_dist.training.inspection import Inspection
from anynet_dist.training.optim.losses import ImageLoss


class Scores(Protocol):
    """Sums over samples, divided by their number."""

    @property
    def loss(self) -> float:
        """Mean loss over the samples."""

    @property
    def count(self) -> int:
        """Samples of all ranks."""

    def record(self, prefix: str) -> dict[str, Any]:
        """The scores as a log record's entries, named `prefix` + name."""


@dataclass(frozen=True)
class MeanScores:
    """Scores for tasks of one's own: means over samples, by name."""

    loss: float
    count: int
    means: dict[str, float]
    """The metric, and whatever else is to be logged."""

    def record(self, prefix: str) -> dict[str, Any]:
        """As in Scores."""
        entries = {"loss": self.loss, "count": self.count, **self.means}
        return {f"{prefix}{name}": value for name, value in entries.items()}


class RunningScores(ABC):
    """Sums over samples, kept on the device until asked for: nothing waits for the device before."""

    def __init__(self, device: torch.device, size: int) -> None:
        """`size` is the length of what `measure` returns."""
        self.dtype = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(size, device=device, dtype=self.dtype)

    @abstractmethod
    def measure(self, outputs: Tensor, targets: Tensor, loss_sum: Tensor) -> Tensor:
        """What a batch of B samples adds to the sums, (size,): sums over its samples."""

    @abstractmethod
    def scores(self, sums: Sequence[float], accelerator: Accelerator) -> Scores:
        """The scores from the sums of all ranks; called on every rank."""

    def update(self, outputs: Tensor, targets: Tensor, loss_sum: Tensor) -> None:
        """Add a batch: the network's outputs, the targets and the sum of the samples' losses."""
        self.sums += self.measure(outputs.detach(), targets, loss_sum.detach()).to(self.dtype)

    def update_if_finite(self, outputs: Tensor, targets: Tensor, loss_sum: Tensor) -> None:
        """As `update`, but without a batch whose loss is not finite: a training step that is left out."""
        finite = torch.isfinite(loss_sum.detach())
        batch = self.measure(outputs.detach(), targets, loss_sum.detach()).to(self.dtype)
        self.sums += torch.where(finite, batch, torch.zeros_like(batch))

    def total(self, accelerator: Accelerator) -> list[float]:
        """The sums of all ranks so far, for a checkpoint. Waits for the device and for all ranks."""
        return list(accelerator.reduce(self.sums.clone(), reduction="sum").tolist())

    def restore(self, sums: list[float], accelerator: Accelerator) -> None:
        """Continue from what `total` returned; rank 0 keeps it for all."""
        if sums and accelerator.is_main_process:
            self.sums[: len(sums)] += torch.tensor(sums, device=self.sums.device, dtype=self.dtype)

    def reduce(self, accelerator: Accelerator) -> Scores:
        """Scores over the samples of all ranks, and a fresh start. Waits for the device and for all ranks."""
        total = self.total(accelerator)
        self.sums = torch.zeros_like(self.sums)
        return self.scores(total, accelerator)


@dataclass(frozen=True, kw_only=True)
class TaskSetting:
    """What a task is made for."""

    num_classes: int
    classes: tuple[str, ...] = ()
    """Names of the classes, where they are known."""
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Of the training images."""
    loss: nn.Module = field(default_factory=ImageLoss)
    """The loss that the config names: outputs and targets to the mean over the images."""
    mixup: float = 0.0
    cutmix: float = 0.0
    seed: int = 0


class Task(ABC):
    """What a run learns. Subclasses say what the targets are and how outputs are scored."""

    metric = "top1"
    """The score that chooses the best checkpoint, a fraction; larger is better."""
    metric_label = "top-1"
    """What the console calls it."""

    def __init__(self, setting: TaskSetting) -> None:
        self.setting = setting

    def batch(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What the network gets and what it is to answer, from images (B, 3, R, R) and labels (B,)."""
        return images, labels

    def mix(self, inputs: Tensor, targets: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """A training batch with its samples blended; `number` counts the batches of all ranks."""
        return inputs, targets

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean over the samples of a training batch, a scalar; `targets` are those of `mix`."""
        loss: Tensor = self.setting.loss(outputs, targets)
        return loss

    def evaluation_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum over the samples of an evaluated batch, a scalar."""
        return self.loss(outputs, targets) * len(targets)

    @abstractmethod
    def running_scores(self, device: torch.device, evaluation: bool = False) -> RunningScores:
        """Where scores are summed; those of an `evaluation` may be more detailed."""

    def inspection(self, device: torch.device, resolution: int) -> Inspection | None:
        """What looks closer at a finished network, for the report; None for nothing."""
        return None

    def describe(self, targets: Tensor) -> list[str]:
        """A short text for each sample of a training batch, for its picture; `targets` are those of `mix`."""
        return [""] * len(targets)

    def flipped(self, network: nn.Module) -> nn.Module:
        """The network with test-time flip. Raises UserError where the task has none."""
        raise UserError("eval.flip: this task has no test-time flip")

    def summary(self, record: dict[str, Any], split: str) -> str:
        """An evaluation record for the console, in one line."""
        score, loss = record[f"{split}/{self.metric}"], record[f"{split}/loss"]
        return f"{split}: {self.metric_label} {score:.2%}, loss {loss:.4f}"

    def warning(self, scores: Scores) -> str | None:
        """What is suspicious about the scores of a finished network; None for nothing."""
        return None
