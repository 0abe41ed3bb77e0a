"""The empirical distribution function (EDF) of errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom

from anynet_dist.sweep.statistics.columns import FloatArray, checked_errors
from anynet_dist.system.errors import UserError


@dataclass(frozen=True, kw_only=True, eq=False)
class Edf:
    """F(e), the share of networks with an error of at most e.

    Equation 1 of RegNet counts errors below e, pycls' code those of at most e; the latter holds here.
    """

    errors: FloatArray
    """The errors that occur, ascending, each once."""
    shares: FloatArray
    """F at each of them; the last is 1."""
    n: int
    """Networks that count: those with a weight above 0."""
    min: float
    mean: float
    median: float

    def at(self, error: float) -> float:
        """The share of networks with an error of at most `error`."""
        index = int(np.searchsorted(self.errors, error, side="right"))
        return float(self.shares[index - 1]) if index else 0.0


def edf(errors: ArrayLike, weights: ArrayLike | None = None) -> Edf:
    """The EDF of `errors`, with all networks alike or with `weights`, which need not sum to 1.

    Raises UserError where there are no errors, or the weights do not suit them.
    """
    array = checked_errors(errors)
    weight = np.ones(len(array)) if weights is None else _checked_weights(weights, len(array))
    counted = weight > 0
    values, place = np.unique(array[counted], return_inverse=True)
    weight = weight[counted] / weight[counted].sum()
    mass = np.bincount(place, weight)
    shares = np.minimum(np.cumsum(mass), 1)
    shares[-1] = 1
    return Edf(
        errors=values,
        shares=shares,
        n=int(counted.sum()),
        min=float(values[0]),
        mean=float(values @ mass),
        median=_median(values, shares),
    )


def edf_band(errors: ArrayLike, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """The pointwise bootstrap band of the EDF (all networks alike) at each of its `errors`: (low, high).

    Of n networks drawn with replacement, the number with an error of at most e is binomial with n draws and
    probability F(e), so the percentiles of the bootstrap are known without drawing.
    """
    if not 0 < level < 1:
        raise UserError(f"the level of a band must lie between 0 and 1, not {level}")
    distribution = edf(errors)
    tail = (1 - level) / 2
    low, high = (binom.ppf(q, distribution.n, distribution.shares) / distribution.n for q in (tail, 1 - tail))
    return low, high


def _checked_weights(weights: ArrayLike, n: int) -> FloatArray:
    array = np.asarray(weights, dtype=float)
    if array.shape != (n,):
        raise UserError(f"{n} errors need {n} weights, not {array.size}")
    if not np.isfinite(array).all() or (array < 0).any() or not array.sum() > 0:
        raise UserError("weights must be finite, at least 0, and above 0 for one network or more")
    return array


def _median(values: FloatArray, shares: FloatArray) -> float:
    """The value where the share reaches a half; where it is a half exactly, the middle to the next value."""
    index = int(np.searchsorted(shares, 0.5 - 1e-12))
    exactly = index + 1 < len(values) and abs(shares[index] - 0.5) <= 1e-12
    return float((values[index] + values[index + 1]) / 2 if exactly else values[index])
