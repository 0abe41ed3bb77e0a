"""The bootstrap: which values the best networks have, and how far a median can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from anynet_dist.sweep.statistics.columns import FloatArray, checked_errors
from anynet_dist.system.errors import UserError


@dataclass(frozen=True, kw_only=True)
class BestRange:
    """Where the best networks lie on one parameter or complexity measure."""

    low: float
    median: float
    high: float
    n: int
    """Networks whose value is known."""
    drawn: int
    """Networks in each draw."""


def best_range(values: ArrayLike, errors: ArrayLike, share: float = 0.25, level: float = 0.95) -> BestRange:
    """The empirical bootstrap of RegNet, section 3: of a `share` of the networks, drawn with replacement,
    take the value of the one with the lowest error; over all draws, the percentiles of that value.

    The paper makes 10,000 draws. Here the percentiles are exact, as of infinitely many draws: with the n
    networks in order of error, the best of k draws is beyond the first r with probability (1 - r / n)^k.
    Networks of equal error share their probability. Networks of unknown value (NaN) are left out.

    Raises UserError where nothing is left, or the arrays do not suit each other.
    """
    if not 0 < share <= 1 or not 0 < level < 1:
        raise UserError(f"share and level must lie between 0 and 1, not {share} and {level}")
    value, error = np.asarray(values, dtype=float), np.asarray(errors, dtype=float)
    if value.shape != error.shape:
        raise UserError(f"{error.size} errors need {error.size} values, not {value.size}")
    known = np.isfinite(value)
    value, error = value[known], checked_errors(error[known])
    n, drawn = len(error), max(1, int(share * len(error)))
    probability = _probability_of_best(error, drawn)
    order = np.argsort(value, kind="stable")
    reached = np.cumsum(probability[order])
    tail = (1 - level) / 2
    places = np.minimum(np.searchsorted(reached, [tail, 0.5, 1 - tail]), n - 1)
    low, median, high = (float(each) for each in value[order][places])
    return BestRange(low=low, median=median, high=high, n=n, drawn=drawn)


def _probability_of_best(errors: FloatArray, drawn: int) -> FloatArray:
    """For each network the probability that it has the lowest error of `drawn` draws with replacement."""
    _, place, count = np.unique(errors, return_inverse=True, return_counts=True)
    beyond = (1 - np.concatenate([[0], np.cumsum(count)]) / len(errors)) ** drawn
    return (-np.diff(beyond) / count)[place]


def bootstrap_medians(errors: ArrayLike, draws: int, generator: np.random.Generator) -> FloatArray:
    """Medians of `draws` resamples (n of n with replacement), each drawn without its resample.

    A resample's k-th smallest member is the sorted error at floor(n * U), U being the k-th smallest of n
    uniform numbers, which is Beta(k, n - k + 1); given U, the next one's distance to 1 is (1 - U) times a
    Beta(n - k, 1).
    """
    values = np.sort(checked_errors(errors))
    n = len(values)
    k = (n + 1) // 2
    lower = generator.beta(k, n - k + 1, draws)
    if n % 2:
        return values[_index(lower, n)]
    upper = 1 - (1 - lower) * generator.beta(n - k, 1, draws)
    return (values[_index(lower, n)] + values[_index(upper, n)]) / 2


def _index(uniform: FloatArray, n: int) -> np.ndarray:
    return np.minimum((n * uniform).astype(int), n - 1)
