"""Classification: top-1 and top-5 accuracy, overall and per class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from anynet_dist.data.transforms.mix import Mixing
from anynet_dist.training.inspection import Inspection
from anynet_dist.training.task import RunningScores, Scores, Task, TaskSetting


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
        """Fraction of the largest class: the top-1 accuracy of always answering it."""
        return max(self.images) / max(sum(self.images), 1)

    @property
    def predicted_classes(self) -> list[int]:
        """The classes that were predicted at all."""
        return [number for number, count in enumerate(self.predicted) if count]


@dataclass(frozen=True)
class ClassificationScores:
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


class RunningClassificationScores(RunningScores):
    """Sums of loss, top-1 and top-5 hits, samples, and samples whose logits are not finite.

    With `classes` outputs, also those of each class.
    """

    def __init__(self, device: torch.device, classes: int = 0) -> None:
        super().__init__(device, 5)
        self.by_class = torch.zeros(3, classes, device=device, dtype=self.dtype)

    def measure(self, outputs: Tensor, targets: Tensor, loss_sum: Tensor) -> Tensor:
        """Logits (B, classes), labels (B,) and the sum of the losses to the five sums."""
        return self._sums(outputs, targets, loss_sum, torch.isfinite(outputs).all(dim=1))

    def update_if_finite(self, outputs: Tensor, targets: Tensor, loss_sum: Tensor) -> None:
        """As in RunningScores; where the loss is finite, so are all logits."""
        loss_sum = loss_sum.detach()
        finite = torch.isfinite(loss_sum)
        batch = self._sums(outputs.detach(), targets, loss_sum, finite.expand(len(targets)))
        self.sums += torch.where(finite, batch, torch.zeros_like(batch))

    def _sums(self, outputs: Tensor, targets: Tensor, loss_sum: Tensor, finite: Tensor) -> Tensor:
        hits = (_top5(outputs) == targets[:, None]) & finite[:, None]
        count = torch.full((), len(targets), device=targets.device)
        values = [loss_sum, hits[:, 0].sum(), hits.sum(), count, (~finite).sum()]
        return torch.stack([value.to(self.dtype) for value in values])

    def update(self, outputs: Tensor, targets: Tensor, loss_sum: Tensor) -> None:
        """As in RunningScores; each sample counts, one whose logits are not finite as wrong."""
        super().update(outputs, targets, loss_sum)
        if self.by_class.numel():
            self._count_classes(outputs.detach(), targets)

    def _count_classes(self, logits: Tensor, labels: Tensor) -> None:
        guesses, finite = _top5(logits)[:, 0], torch.isfinite(logits).all(dim=1)
        values = torch.stack([torch.ones_like(finite), (guesses == labels) & finite, finite])
        for row, (classes, value) in enumerate(zip((labels, labels, guesses), values, strict=True)):
            self.by_class[row].index_add_(0, classes, value.to(self.dtype))

    def scores(self, sums: Sequence[float], accelerator: Accelerator) -> ClassificationScores:
        """As in RunningScores."""
        loss, top1, top5, count, not_finite = sums
        images = max(count, 1)
        loss = math.nan if not_finite else loss / images
        classes = self._reduce_classes(accelerator) if self.by_class.numel() else None
        return ClassificationScores(loss, top1 / images, top5 / images, int(count), int(not_finite), classes)

    def _reduce_classes(self, accelerator: Accelerator) -> ClassScores:
        total = accelerator.reduce(self.by_class.clone(), reduction="sum")
        return ClassScores(*total.long().tolist())


class Classification(Task):
    """One class per image; batches may be blended by mixup or CutMix."""

    def __init__(self, setting: TaskSetting) -> None:
        super().__init__(setting)
        self.mixing = Mixing(setting.num_classes, setting.mixup, setting.cutmix, setting.seed)

    def mix(self, inputs: Tensor, targets: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """As in Task: labels (B,) become class probabilities (B, classes) where images are blended."""
        return self.mixing(inputs, targets, number)

    def evaluation_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Plain cross-entropy, whatever the training's loss is, so that runs can be compared."""
        return F.cross_entropy(outputs, targets, reduction="sum")

    def running_scores(self, device: torch.device, evaluation: bool = False) -> RunningClassificationScores:
        """As in Task; those of an evaluation count each class too."""
        return RunningClassificationScores(device, self.setting.num_classes if evaluation else 0)

    def inspection(self, device: torch.device, resolution: int) -> Inspection | None:
        """As in Task."""
        return Inspection(self.setting.num_classes, resolution, device)

    def describe(self, targets: Tensor) -> list[str]:
        """As in Task: the class, or the two largest parts where images are blended."""
        if targets.dim() == 1:
            return [self.name(label) for label in targets.tolist()]
        parts, classes = targets.topk(min(2, targets.shape[1]), dim=1)
        return [
            "\n".join(
                f"{part:.0%} {self.name(number)}" for part, number in zip(*both, strict=True) if part > 0
            )
            for both in zip(parts.tolist(), classes.tolist(), strict=True)
        ]

    def name(self, number: int) -> str:
        """What a class is called."""
        names = self.setting.classes
        return names[number] if number < len(names) else f"class {number}"

    def flipped(self, network: nn.Module) -> nn.Module:
        """As in Task."""
        return Mirrored(network)

    def summary(self, record: dict[str, Any], split: str) -> str:
        """As in Task; the balanced top-1 where classes differ in size, and all kinds of weights."""
        parts = [f"{split}: top-1 {record[f'{split}/top1']:.2%}, top-5 {record[f'{split}/top5']:.2%}"]
        parts.append(f"loss {record[f'{split}/loss']:.4f}")
        found, classes = record[f"{split}/classes_predicted"], len(record[f"{split}/class_top1"])
        if record[f"{split}/largest_class"] > 2 / max(classes, 1):  # then top-1 hides the small classes
            parts.append(f"balanced top-1 {record[f'{split}/balanced_top1']:.2%}")
        if found < classes:
            parts.append(f"{found} of {classes} classes predicted")
        kinds = (("ema_", "EMA"), ("flip_", "with test-time flip"), ("ema_flip_", "EMA with flip"))
        for key, label in kinds:
            if f"{split}/{key}top1" in record:
                parts.append(f"{label} top-1 {record[f'{split}/{key}top1']:.2%}")
        return ", ".join(parts)

    def warning(self, scores: Scores) -> str | None:
        """As in Task: a network that gives one answer for all images."""
        assert isinstance(scores, ClassificationScores)
        return one_class_warning(scores, self.setting.classes)


def one_class_warning(scores: ClassificationScores, names: Sequence[str]) -> str | None:
    """A warning about a network that gives one answer for all images; None for any other."""
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
