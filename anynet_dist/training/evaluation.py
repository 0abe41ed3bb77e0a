"""Exact evaluation: sums over samples, reduced once over all ranks."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scores:
    """Mean cross-entropy, top-1 and top-5 accuracy (as shares of 1) over `count` samples.

    A sample whose logits are not all finite counts as wrong; the loss is then not a number.
    """

    loss: float
    top1: float
    top5: float
    count: int
    not_finite: int = 0
    """Samples whose logits were not all finite."""

    def record(self, prefix: str) -> dict[str, float]:
        """The scores as a log record's entries, named `prefix` + name."""
        return {
            f"{prefix}loss": self.loss,
            f"{prefix}top1": self.top1,
            f"{prefix}top5": self.top5,
            f"{prefix}count": self.count,
            f"{prefix}not_finite": self.not_finite,
        }


class Mirrored(nn.Module):
    """A network whose logits are the mean over an image and its mirror image: test-time flip."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, classes)."""
        logits: Tensor = self.network(images) + self.network(images.flip(3))
        return logits / 2


class RunningScores:
    """Sums of loss, top-1 and top-5 hits and samples, kept on the device until asked for."""

    def __init__(self, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(5, device=device, dtype=dtype)

    def update(self, logits: Tensor, labels: Tensor, loss_sum: Tensor) -> None:
        """Add a batch: logits (B, classes), labels (B,) and the sum of its losses. Each sample counts."""
        self.sums += self._sums_of(logits.detach(), labels, loss_sum.detach())

    def update_if_finite(self, logits: Tensor, labels: Tensor, loss_sum: Tensor) -> None:
        """As `update`, but without a batch whose loss is not finite: a training step that is left out."""
        batch = self._sums_of(logits.detach(), labels, loss_sum.detach())
        self.sums += torch.where(torch.isfinite(loss_sum.detach()), batch, torch.zeros_like(batch))

    def _sums_of(self, logits: Tensor, labels: Tensor, loss_sum: Tensor) -> Tensor:
        finite = torch.isfinite(logits).all(dim=1)
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = (ranked == labels[:, None]) & finite[:, None]
        count = torch.full((), len(labels), device=labels.device)
        values = [loss_sum, hits[:, 0].sum(), hits.sum(), count, (~finite).sum()]
        return torch.stack([value.to(self.sums.dtype) for value in values])

    def total(self, accelerator: Accelerator) -> list[float]:
        """The sums of all ranks so far, for a checkpoint. Waits for the device and for all ranks."""
        return list(accelerator.reduce(self.sums.clone(), reduction="sum").tolist())

    def restore(self, sums: list[float], accelerator: Accelerator) -> None:
        """Go on from what `total` gave; rank 0 keeps it for all."""
        if sums and accelerator.is_main_process:
            self.sums[: len(sums)] += torch.tensor(sums, device=self.sums.device, dtype=self.sums.dtype)

    def reduce(self, accelerator: Accelerator) -> Scores:
        """Scores over the samples of all ranks, and a fresh start. Waits for the device and for all ranks."""
        loss, top1, top5, count, not_finite = self.total(accelerator)
        self.sums = torch.zeros_like(self.sums)
        images = max(count, 1)
        loss = math.nan if not_finite else loss / images
        return Scores(loss, top1 / images, top5 / images, int(count), int(not_finite))


@torch.inference_mode()
def evaluate(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], accelerator: Accelerator
) -> Scores:
    """Scores of `network` over the batches of all ranks, each sample counted once.

    Samples whose logits are not finite are counted as wrong, with a warning.

    `network` is the bare module, not the distributed one, so ranks may have different numbers of batches.
    """
    was_training = network.training
    network.eval()
    scores = RunningScores(accelerator.device)
    for images, labels in batches:
        with accelerator.autocast():
            logits = network(images)
        logits = logits.float()
        scores.update(logits, labels, F.cross_entropy(logits, labels, reduction="sum"))
    network.train(was_training)
    result = scores.reduce(accelerator)
    if result.not_finite and accelerator.is_main_process:
        logger.warning(
            "the logits of %d of %d images are not finite: they count as wrong, and the loss is not a number",
            result.not_finite,
            result.count,
        )
    return result
