"""Curves and confusion matrices as PNG, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anynet_dist.report.findings import Findings
from anynet_dist.report.html import PALETTE
from anynet_dist.report.run_record import RunRecord
from anynet_dist.system.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED_CLASSES = 40
"""Up to so many classes each has its name at the axes, and up to half of it its numbers in the cells."""


def write_curves(out: Path, run: RunRecord) -> None:
    """Write loss, score, learning rate and speed of a run over its epochs."""
    figure = new_figure(10, 6)
    axes = figure.subplots(2, 2)
    validations = run.evaluations("val")
    per_epoch = next((r["step"] / r["epoch"] for r in validations if r.get("epoch")), None)
    unit = "step" if per_epoch is None else "epoch"
    for place, name in ((axes[0, 0], "loss"), (axes[0, 1], run.metric)):
        for label, records, key in (
            ("training", run.training, f"train/{name}"),
            ("validation", validations, f"val/{name}"),
            ("validation, moving average", validations, f"val/ema_{name}"),
        ):
            _draw(place, records, key, per_epoch, label)
        place.set_ylabel({"loss": "loss", "top1": "top-1 accuracy"}.get(name, name))
        if place.lines:
            place.legend(frameon=False, fontsize=8)
    for place, key, label in (
        (axes[1, 0], "lr", "learning rate"),
        (axes[1, 1], "images_per_second", "images/s"),
    ):
        _draw(place, run.training, key, per_epoch, label)
        place.set_ylabel(label)
    for place in axes.flat:
        place.set_xlabel(unit)
        place.grid(alpha=0.3)
    axes[1, 1].set_ylim(bottom=0)
    figure.suptitle(run.name, fontsize=11)
    save(figure, out)


def _draw(axes: Axes, records: list[dict[str, float]], key: str, per_epoch: float | None, label: str) -> None:
    points = [(r["step"] / (per_epoch or 1), r[key]) for r in records if r.get(key) is not None]
    if points:
        number = len(axes.lines)
        style, marker = ("-", "--", ":")[number % 3], "." if len(points) < 20 else ""
        axes.plot(*zip(*points, strict=True), style, marker=marker, color=PALETTE[number], label=label)


def write_confusion(out: Path, findings: Findings) -> None:
    """Write a confusion matrix: each row is a class, its colours the fractions of its images."""
    matrix, classes = findings.matrix(), findings.classes
    fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    named = len(classes) <= NAMED_CLASSES
    side = max(4.5, 1.5 + 0.38 * len(classes)) if named else 9
    figure = new_figure(side, side * 0.92)
    axes = figure.subplots()
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if named:
        ticks = range(len(classes))
        axes.set_xticks(ticks, [_short(name) for name in classes], rotation=90 if len(classes) > 5 else 0)
        axes.set_yticks(ticks, [_short(name) for name in classes])
    if len(classes) <= NAMED_CLASSES // 2:
        for row, column in np.argwhere(matrix):
            colour = "white" if fractions[row, column] > 0.5 else "black"
            value = str(matrix[row, column])
            axes.text(column, row, value, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xlabel("answer of the network")
    axes.set_ylabel("class")
    axes.set_title(f"{findings.split}, network of epoch {findings.epoch}", fontsize=10)
    figure.colorbar(image, ax=axes, label="fraction of the class", shrink=0.8)
    save(figure, out)


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:19]}…"


def new_figure(width: float, height: float, dpi: int = 120) -> Figure:
    """A figure of so many inches that no window or other thread shares."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def save(figure: Figure, out: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def write_pictures(runs: Sequence[RunRecord], folder: Path) -> None:
    """Write NAME_curves.png and, where there is one, NAME_confusion_matrix.png of each run."""
    folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        name = run.name.replace("/", "_")
        write_curves(folder / f"{name}_curves.png", run)
        if run.findings and run.findings.counts:
            write_confusion(folder / f"{name}_confusion_matrix.png", run.findings)
