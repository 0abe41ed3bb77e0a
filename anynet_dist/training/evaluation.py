"""Exact evaluation: sums over samples, reduced once over all ranks."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassScores:
    """What became of each class; lists have an entry for each, in the order of the outputs."""

    images: list[int]
    """Samples of the class."""
    hits: list[int]
    """Those of them that were recognised."""
    predicted: list[int]
    """Samples for which the class was predicted."""
    names: tuple[str, ...] = ()
    """What the classes are called, as far as that is known."""

    @property
    def top1(self) -> list[float | None]:
        """Accuracy (recall) of each class; None for one without samples."""
        return [
            hits / images if images else None for hits, images in zip(self.hits, self.images, strict=True)
        ]

    @property
    def balanced_top1(self) -> float:
        """Mean of the classes' accuracies (Brodersen et al., 2010), the same for any constant answer."""
        known = [value for value in self.top1 if value is not None]
        return sum(known) / max(len(known), 1)

    @property
    def largest_share(self) -> float:
        """Share of the largest class: the top-1 accuracy of always answering it."""
        return max(self.images) / max(sum(self.images), 1)

    @property
    def predicted_classes(self) -> list[int]:
        """The classes that were predicted at all."""
        return [number for number, count in enumerate(self.predicted) if count]


@dataclass(frozen=True)
class Scores:
    """Mean cross-entropy, top-1 and top-5 accuracy (as fractions) over `count` samples.

    A sample whose logits are not all finite counts as wrong; the loss is then not a number.
    """

    loss: float
    top1: float
    top5: float
    count: int
    not_finite: int = 0
    """Samples whose logits were not all finite."""
    classes: ClassScores | None = None
    """Class by class, where that was counted."""

    def record(self, prefix: str) -> dict[str, Any]:
        """The scores as a log record's entries, named `prefix` + name."""
        entries: dict[str, Any] = {
            "loss": self.loss,
            "top1": self.top1,
            "top5": self.top5,
            "count": self.count,
            "not_finite": self.not_finite,
        }
        if self.classes is not None:
            entries |= {
                "balanced_top1": self.classes.balanced_top1,
                "largest_class": self.classes.largest_share,
                "classes_predicted": len(self.classes.predicted_classes),
                "class_top1": [value and round(value, 4) for value in self.classes.top1],
            }
        return {f"{prefix}{name}": value for name, value in entries.items()}


class Mirrored(nn.Module):
    """A network whose logits are the mean over an image and its mirror image: test-time flip."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, classes)."""
        logits: Tensor = self.network(images) + self.network(images.flip(3))
        return logits / 2


def _top5(logits: Tensor) -> Tensor:
    """The five most probable classes of each sample, (B, 5)."""
    return logits.topk(min(5, logits.shape[1]), dim=1).indices


class RunningScores:
    """Sums of loss, top-1 and top-5 hits and samples, kept on the device until asked for.

    With `classes` outputs, also those of each class.
    """

    def __init__(self, device: torch.device, classes: int = 0) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(5, device=device, dtype=dtype)
        self.by_class = torch.zeros(3, classes, device=device, dtype=dtype)

    def update(self, logits: Tensor, labels: Tensor, loss_sum: Tensor) -> None:
        """Add a batch: logits (B, classes), labels (B,) and the sum of its losses. Each sample counts."""
        logits = logits.detach()
        ranked, finite = _top5(logits), torch.isfinite(logits).all(dim=1)
        self.sums += self._sums_of(ranked, finite, labels, loss_sum.detach())
        if self.by_class.numel():
            self._count_classes(ranked[:, 0], finite, labels)

    def _count_classes(self, guesses: Tensor, finite: Tensor, labels: Tensor) -> None:
        values = torch.stack([torch.ones_like(finite), (guesses == labels) & finite, finite])
        for row, (classes, value) in enumerate(zip((labels, labels, guesses), values, strict=True)):
            self.by_class[row].index_add_(0, classes, value.to(self.by_class.dtype))

    def update_if_finite(self, logits: Tensor, labels: Tensor, loss_sum: Tensor) -> None:
        """As `update`, but without a batch whose loss is not finite: a training step that is left out."""
        loss_sum = loss_sum.detach()
        finite = torch.isfinite(loss_sum)  # so are then all logits
        batch = self._sums_of(_top5(logits.detach()), finite.expand(len(labels)), labels, loss_sum)
        self.sums += torch.where(finite, batch, torch.zeros_like(batch))

    def _sums_of(self, ranked: Tensor, finite: Tensor, labels: Tensor, loss_sum: Tensor) -> Tensor:
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
        classes = self._reduce_classes(accelerator) if self.by_class.numel() else None
        return Scores(loss, top1 / images, top5 / images, int(count), int(not_finite), classes)

    def _reduce_classes(self, accelerator: Accelerator) -> ClassScores:
        total = accelerator.reduce(self.by_class.clone(), reduction="sum")
        return ClassScores(*total.long().tolist())


def one_class_warning(scores: Scores, names: Sequence[str]) -> str | None:
    """What to say of a network that gives one answer for all images; None for any other."""
    found = scores.classes
    if found is None or len(names) < 2 or len(found.predicted_classes) != 1 or scores.count < 2:
        return None
    number = found.predicted_classes[0]
    name = names[number] if number < len(names) else f"class {number}"
    return (
        f"the network answers '{name}' for every image, which is right for {scores.top1:.1%} of them: it has"
        " not learned to tell classes apart; lower optim.lr, train for longer, start from pretrained weights"
        " (--model.pretrained) or, where classes differ in size, set --train.class_weights balanced"
    )


@torch.inference_mode()
def evaluate(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], accelerator: Accelerator, classes: int = 0
) -> Scores:
    """Scores of `network` over the batches of all ranks, each sample counted once; with the number of
    `classes` that its logits have, also class by class.

    Samples whose logits are not finite are counted as wrong, with a warning.

    `network` is the bare module, not the distributed one, so ranks may have different numbers of batches.
    """
    was_training = network.training
    network.eval()
    scores = RunningScores(accelerator.device, classes)
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
