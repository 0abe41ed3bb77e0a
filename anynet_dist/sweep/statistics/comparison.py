"""Whether two populations differ in their errors, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import ks_2samp

from anynet_dist.sweep.statistics.bootstrap import bootstrap_medians
from anynet_dist.sweep.statistics.columns import checked_errors
from anynet_dist.sweep.statistics.power import ALPHA, ks_critical, ks_detectable, ks_power

DRAWS = 10_000
EXAMPLE = 0.28
"""The true distance that a verdict takes as its example: a clear one, yet small samples mostly miss it."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two populations, a and b, by their errors."""

    n: int
    """Networks of a."""
    m: int
    """Networks of b."""
    ks: float
    """The two-sample Kolmogorov-Smirnov distance: the largest gap between the EDFs."""
    p: float
    """How often networks of one and the same distribution are at least this far apart."""
    critical: float
    """The distance from which a difference is shown at level 0.05."""
    detectable80: float | None
    """The smallest true distance that is found in 80 % of cases; None where there is none."""
    median_difference: float
    """Median error of a less that of b, in percent points."""
    interval: tuple[float, float]
    """Its 95 % bootstrap interval."""
    verdict: str
    """What this shows, and what it does not."""

    @property
    def shown(self) -> bool:
        """Whether the test shows a difference."""
        return self.p < ALPHA


def compare(a: ArrayLike, b: ArrayLike, names: tuple[str, str] = ("A", "B"), seed: int = 0) -> Comparison:
    """Compare the errors `a` and `b` of two populations; `seed` is that of the bootstrap of the medians."""
    first, second = checked_errors(a), checked_errors(b)
    n, m = len(first), len(second)
    test = ks_2samp(first, second)
    generator = np.random.default_rng(seed)
    differences = bootstrap_medians(first, DRAWS, generator) - bootstrap_medians(second, DRAWS, generator)
    low, high = np.percentile(differences, [2.5, 97.5])
    ks, p = float(test.statistic), float(test.pvalue)
    difference = float(np.median(first) - np.median(second))
    interval = (float(low), float(high))
    verdict = _shown(ks, p, difference, interval, names) if p < ALPHA else _not_shown(ks, p, n, m)
    return Comparison(
        n=n,
        m=m,
        ks=ks,
        p=p,
        critical=ks_critical(n, m),
        detectable80=ks_detectable(n, m),
        median_difference=difference,
        interval=interval,
        verdict=verdict,
    )


def _shown(
    ks: float, p: float, difference: float, interval: tuple[float, float], names: tuple[str, str]
) -> str:
    low, high = interval
    verdict = f"The distributions of error differ (KS distance {ks:.2f}, {_p(p)})"
    if low <= 0 <= high:
        return (
            f"{verdict}, but not clearly in their medians: that of {names[0]} less that of {names[1]} is"
            f" {difference:+.2f} points (95 % interval {low:+.2f} to {high:+.2f})."
        )
    lower, higher = names if difference < 0 else names[::-1]
    smallest, largest = sorted((abs(low), abs(high)))
    return (
        f"{verdict}: the median error of {lower} is {abs(difference):.2f} points below that of {higher}"
        f" (95 % interval {smallest:.2f} to {largest:.2f})."
    )


def _not_shown(ks: float, p: float, n: int, m: int) -> str:
    verdict = f"No difference is shown (KS distance {ks:.2f}, {_p(p)})"
    networks = f"{n} networks a side" if n == m else f"{n} and {m} networks"
    detectable = ks_detectable(n, m)
    if detectable is None:
        return f"{verdict}, and {networks} are too few to show any reliably: train more before comparing."
    power = ks_power(EXAMPLE, n, m)
    if power < 0.8:
        return (
            f"{verdict}, which is not to show that there is none: with {networks} a true distance of"
            f" {EXAMPLE} is found in only {power * 100:.0f} % of cases, and it takes one of"
            f" {detectable:.2f} to be found in 80 %."
        )
    return (
        f"{verdict}. With {networks} a true distance of {detectable:.2f} or more is found in at least 80 % of"
        " cases; a smaller one may well be there."
    )


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
