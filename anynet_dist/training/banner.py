"""What a run is about to do, and why: a table at its start, shown once by rank 0."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from anynet_dist import __version__
from anynet_dist.config import Config
from anynet_dist.data.dataset import Dataset
from anynet_dist.models.complexity import network_complexity
from anynet_dist.models.spec import NetworkSpec
from anynet_dist.system.choices import Choice
from anynet_dist.system.logging import LABEL_WIDTH
from anynet_dist.training.setup import RunPlan

logger = logging.getLogger(__name__)

FIRST = ("devices", "engine", "precision", "memory format", "data", "loader", "workers", "batch", "steps")


def show_banner(title: str, rows: Iterable[Choice]) -> None:
    """Log a line for each row, labels and values below each other.

    A terminal's handler makes cells of `record.cells`, so that a long reason stays in its column.
    """
    logger.info("anynet %s: %s", __version__, title)
    rows = list(rows)
    for row, line in zip(rows, banner_lines(rows), strict=True):
        logger.info("%s", line, extra={"cells": (row.subject, str(row))})


def banner_lines(rows: Iterable[Choice]) -> list[str]:
    """A line for each row, labels and values below each other."""
    return [f"{f'  {row.subject}'.ljust(LABEL_WIDTH)} {row}" for row in rows]


def banner_rows(config: Config, plan: RunPlan, facts: Iterable[Choice]) -> list[Choice]:
    """The rows in their usual order: `facts`, with what the plan and the config say.

    `config` must be resolved. A subject that comes several times, such as the loaders of several splits,
    has as many rows.
    """
    rows = [*facts, *_planned(config, plan)]
    rank = {subject: number for number, subject in enumerate(FIRST)}
    return sorted(rows, key=lambda row: rank.get(row.subject, len(rank)))


def _planned(config: Config, plan: RunPlan) -> Iterator[Choice]:
    yield Choice("batch", str(plan.batches))
    yield Choice("steps", steps_text(config, plan))
    yield Choice("optimizer", f"{config.optim.name}, weight decay {config.optim.weight_decay:g}")


def steps_text(config: Config, plan: RunPlan) -> str:
    """Epochs, steps of one, and all steps of the run."""
    planned = config.train.epochs * plan.steps_per_epoch
    text = f"{config.train.epochs:,} epochs x {plan.steps_per_epoch:,} steps = {planned:,}"
    return text if plan.total_steps == planned else f"{text}, of which {plan.total_steps:,} (train.max_steps)"


def data_row(splits: dict[str, Dataset], resolution: int) -> Choice:
    """Images of each split, classes, and the side of the training images."""
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in splits.items())
    classes = len(splits["train"].classes)
    return Choice("data", f"{sizes} images in {classes:,} classes, trained on at {resolution} px")


def network_row(spec: NetworkSpec, resolution: int) -> Choice:
    """Parameters, and multiply-adds of an image."""
    cost = network_complexity(spec, resolution)
    counts = [f"{cost.params:,} parameters"] if cost.params is not None else []
    if cost.flops is not None:
        counts.append(f"{_engineering(cost.flops)}FLOPs (multiply-adds) at {resolution} px")
    return Choice("network", ", ".join(counts) or "unknown size")


def _engineering(value: int) -> str:
    units = (("G", 1e9), ("M", 1e6), ("k", 1e3))
    unit, size = next((pair for pair in units if value >= pair[1]), units[-1])
    return f"{value / size:.3g} {unit}"
