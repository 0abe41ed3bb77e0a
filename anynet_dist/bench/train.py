"""How fast a config trains from end to end, and what of it is the loader's and the trainer's part."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from anynet_dist.bench.own_training import to_be_measured, train_bare, train_ours
from anynet_dist.bench.paced import Pacing, Train, alternate_trainings
from anynet_dist.bench.results import Row, compare, speed
from anynet_dist.config.schema import Config

TRAINER, BARE = "trainer", "bare loop"
BATCHES = {"loader": False, "synthetic": True}
"""Where batches come from: the config's loader, or one batch again and again."""


def bench_train(
    config: Config, changed: Mapping[str, Config], batches: tuple[str, ...], bare: bool, pacing: Pacing
) -> list[Row]:
    """A row for the trainer and, if wanted, for a bare loop, with each kind of batches; and for the trainer
    with each changed config, by what is changed. Ratios are to the trainer with the same batches.

    Raises UserError as a run does.
    """
    with tempfile.TemporaryDirectory(prefix="anynet-bench-") as folder:
        trainings, rows = _trainings(config, changed, batches, bare, Path(folder))
        found = alternate_trainings(trainings, pacing)
    for key, (images, timing) in found.items():
        rows[key] |= speed(images, timing)
    compare(list(rows.values()), "batches")
    return list(rows.values())


def _trainings(
    config: Config, changed: Mapping[str, Config], batches: tuple[str, ...], bare: bool, folder: Path
) -> tuple[dict[str, Train], dict[str, Row]]:
    """What is to be measured, by name, and what its row begins with."""
    trainings: dict[str, Train] = {}
    rows: dict[str, Row] = {}
    for kind in batches:
        subjects: dict[str, tuple[Any, Config]] = {TRAINER: (train_ours, config)}
        subjects |= {BARE: (train_bare, config)} if bare else {}
        subjects |= {name: (train_ours, each) for name, each in changed.items()}
        for name, (train, each) in subjects.items():
            key = f"{name}, {kind}"
            measured = to_be_measured(each, folder / str(len(trainings)))
            trainings[key] = partial(train, measured, BATCHES[kind])
            rows[key] = {"what": name, "batches": kind}
    return trainings, rows


def overhead(rows: list[Row], batches: str) -> float | None:
    """The processor time of the trainer over that of the bare loop, less one; None where one is missing."""
    speeds = {row["what"]: row["images_per_cpu_second"] for row in rows if row["batches"] == batches}
    if TRAINER not in speeds or BARE not in speeds:
        return None
    return float(speeds[BARE] / speeds[TRAINER] - 1)
