"""How much of the error is the luck of a training's seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class SeedNoise:
    """The spread between trainings of one network, over the networks that were trained more than once."""

    n: int
    """Networks with two trainings or more."""
    median_sd: float
    """The median of their standard deviations (of a sample: divided by trainings - 1)."""
    share: float | None
    """The part of the variance of the networks' mean errors that the seeds explain: each network's variance
    divided by its trainings, on average, over that variance. None with one network, or without variance."""


def seed_noise(trainings: Iterable[Sequence[float]]) -> SeedNoise | None:
    """The noise in the errors of each network's `trainings`; None where no network was trained twice."""
    repeated = [np.asarray(errors, dtype=float) for errors in trainings if len(errors) > 1]
    if not repeated:
        return None
    variances = np.array([errors.var(ddof=1) for errors in repeated])
    of_means = np.mean(variances / [len(errors) for errors in repeated])
    means = np.array([errors.mean() for errors in repeated])
    total = means.var(ddof=1) if len(means) > 1 else 0.0
    return SeedNoise(
        n=len(repeated),
        median_sd=float(np.median(np.sqrt(variances))),
        share=float(of_means / total) if total > 0 else None,
    )
