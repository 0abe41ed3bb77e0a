"""What a run leaves to look at: a training batch, its curves, its mistakes and its report."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anynet_dist.report.findings import Findings, Mistake, write_findings
from anynet_dist.report.grids import write_grid
from anynet_dist.report.pictures import write_confusion, write_curves
from anynet_dist.report.run_record import read_run
from anynet_dist.report.run_report import write_report
from anynet_dist.runs.folder import RunFolder
from anynet_dist.runs.trackers import Trackers
from anynet_dist.training.evaluation import Evaluator
from anynet_dist.training.inspection import Inspection
from anynet_dist.training.task import Task

logger = logging.getLogger(__name__)

SHOWN = 32
"""Images of a training batch in its picture."""
Channels = tuple[float, float, float]


class BatchPicture:
    """A picture of the first training batch of a run, augmented and blended, as the network sees it."""

    def __init__(
        self, out: Path, mean: Channels, std: Channels, trackers: Trackers | None, active: bool
    ) -> None:
        """`active` on rank 0 of a new run; elsewhere nothing is drawn."""
        self.out, self.mean, self.std, self.trackers, self.active = out, mean, std, trackers, active

    def see(self, inputs: Tensor, targets: Tensor, task: Task) -> None:
        """Draw the first batch that is seen: inputs (B, 3, R, R) and what `Task.mix` made of the targets."""
        if not self.active:
            return
        self.active = False
        with harmless(self.out.name):
            images = pixels(inputs[:SHOWN], self.mean, self.std)
            write_grid(self.out, images, task.describe(targets[:SHOWN]))
            if self.trackers:
                self.trackers.show_pictures({"train/batch": self.out}, step=0)


@contextmanager
def harmless(what: str) -> Iterator[None]:
    """Nothing that goes wrong with a picture ends a run: it is logged."""
    try:
        yield
    except Exception as error:  # full disks, fonts, shapes that a task of one's own has
        logger.warning("%s is left out: %s", what, str(error) or type(error).__name__)


def pixels(images: Tensor, mean: Channels, std: Channels) -> list[NDArray[np.uint8]]:
    """Normalised images (B, 3, H, W) as arrays (H, W, 3) of 0..255."""
    shift, scale = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (mean, std))
    shown = ((images.detach().float() * scale + shift) * 255).round().clamp(0, 255)
    return list(shown.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())


def leave_report(
    folder: RunFolder, evaluator: Evaluator, step: int, epoch: int, classes: Sequence[str]
) -> None:
    """Look closer at the network that the run ends with, then draw everything; called on every rank."""
    split = next((name for name in ("val", "test") if evaluator.has(name)), None)
    inspection = evaluator.inspect(split) if split else None
    if not evaluator.accelerator.is_main_process:
        return
    folder.check_owner()
    if split and inspection:
        with harmless(folder.findings.name):
            findings = _show_mistakes(folder, evaluator, split, inspection, epoch, classes)
            if evaluator.log.trackers:
                _track(folder, evaluator.log.trackers, findings, step)
    with harmless(folder.report.name):
        run = read_run(folder.path, state="finished")
        write_curves(folder.path / "curves.png", run)
        write_report([run], folder.report)
        logger.info("report: %s", folder.report)


def _show_mistakes(
    folder: RunFolder,
    evaluator: Evaluator,
    split: str,
    inspection: Inspection,
    epoch: int,
    classes: Sequence[str],
) -> Findings:
    loader, data = evaluator.loaders[split], evaluator.config.data
    outputs = max(len(classes), evaluator.config.model.num_classes or 0)
    names = [*classes, *(f"class {number}" for number in range(len(classes), outputs))]
    confidence = inspection.confidence[: inspection.found].tolist()
    mistakes = tuple(
        Mistake(label=label, guess=guess, confidence=round(sure, 6), name=loader.sample_name(sample))
        for sure, (sample, label, guess) in zip(confidence, inspection.facts.tolist(), strict=False)
    )
    matrix = inspection.confusion.cpu()
    places = matrix.nonzero()
    counts = torch.cat([places, matrix[tuple(places.T)][:, None]], dim=1).tolist() if len(places) else []
    findings = Findings(
        split=split,
        epoch=epoch,
        classes=tuple(names),
        counts=tuple(map(tuple, counts)),
        mistakes=mistakes,
    )
    write_findings(folder.findings, findings)
    if findings.counts:
        write_confusion(folder.path / "confusion_matrix.png", findings)
    if mistakes and data.mean and data.std:
        images = pixels(inspection.images[: inspection.found], data.mean, data.std)
        captions = [f"{names[each.guess]} {each.confidence:.0%}\nis {names[each.label]}" for each in mistakes]
        write_grid(folder.path / f"{split}_mistakes.jpg", images, captions)
    return findings


def _track(folder: RunFolder, trackers: Trackers, findings: Findings, step: int) -> None:
    """Show trackers the pictures, and the mistakes as a table."""
    files = {"confusion_matrix": "confusion_matrix.png", "mistakes": f"{findings.split}_mistakes.jpg"}
    pictures = {f"{findings.split}/{name}": folder.path / file for name, file in files.items()}
    trackers.show_pictures({name: file for name, file in pictures.items() if file.exists()}, step)
    rows = [
        (each.name, findings.classes[each.label], findings.classes[each.guess], each.confidence)
        for each in findings.mistakes
    ]
    trackers.show_table(f"{findings.split}/mistakes", ("image", "class", "answer", "confidence"), rows, step)
