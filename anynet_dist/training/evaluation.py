"""Exact evaluation: sums over samples, reduced once over all ranks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn


@dataclass(frozen=True)
class Scores:
    """Mean cross-entropy, top-1 and top-5 accuracy (as shares of 1) over `count` samples."""

    loss: float
    top1: float
    top5: float
    count: int

    def record(self, prefix: str) -> dict[str, float]:
        """The scores as a log record's entries, named `prefix` + name."""
        return {f"{prefix}loss": self.loss, f"{prefix}top1": self.top1, f"{prefix}top5": self.top5}


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
        self.sums = torch.zeros(4, device=device, dtype=dtype)

    def update(self, logits: Tensor, labels: Tensor, loss_sum: Tensor) -> None:
        """Add a batch: logits (B, classes), labels (B,) and the sum of its losses.

        A batch whose loss is not finite is left out, so that one does not hide all others.
        """
        ranked = logits.detach().topk(min(5, logits.shape[1]), dim=1).indices
        hits = ranked == labels[:, None]
        count = torch.full((), len(labels), device=labels.device)
        batch = torch.stack([loss_sum.detach(), hits[:, 0].sum(), hits.sum(), count]).to(self.sums.dtype)
        self.sums += torch.where(torch.isfinite(loss_sum.detach()), batch, torch.zeros_like(batch))

    def total(self, accelerator: Accelerator) -> list[float]:
        """The sums of all ranks so far, for a checkpoint. Waits for the device and for all ranks."""
        return list(accelerator.reduce(self.sums.clone(), reduction="sum").tolist())

    def restore(self, sums: list[float], accelerator: Accelerator) -> None:
        """Go on from what `total` gave; rank 0 keeps it for all."""
        if sums and accelerator.is_main_process:
            self.sums += torch.tensor(sums, device=self.sums.device, dtype=self.sums.dtype)

    def reduce(self, accelerator: Accelerator) -> Scores:
        """Scores over the samples of all ranks, and a fresh start. Waits for the device and for all ranks."""
        loss, top1, top5, count = self.total(accelerator)
        self.sums = torch.zeros_like(self.sums)
        return Scores(loss / max(count, 1), top1 / max(count, 1), top5 / max(count, 1), int(count))


@torch.inference_mode()
def evaluate(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], accelerator: Accelerator
) -> Scores:
    """Scores of `network` over the batches of all ranks, each sample counted once.

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
    return scores.reduce(accelerator)
