"""What the two-sample Kolmogorov-Smirnov test can show with n and m networks."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.stats import norm

from anynet_dist.sweep.statistics.columns import FloatArray
from anynet_dist.system.errors import UserError

ALPHA = 0.05
CASES = 4000
"""Simulated comparisons: the standard error of a share of them is at most 0.8 of a percentage point."""
LARGEST = 100
"""Networks a side that are simulated; more count by the square root of their number."""


def ks_critical(n: int, m: int, alpha: float = ALPHA) -> float:
    """The distance from which n and m networks differ at level `alpha`, for large n and m:
    sqrt(-ln(alpha / 2) / 2) * sqrt((n + m) / (n * m)). Above 1, no distance can be shown."""
    _check_sizes(n, m)
    if not 0 < alpha < 1:
        raise UserError(f"alpha must lie between 0 and 1, not {alpha}")
    return math.sqrt(-math.log(alpha / 2) / 2) * math.sqrt((n + m) / (n * m))


@lru_cache(maxsize=1024)
def ks_power(distance: float, n: int, m: int) -> float:
    """The share of comparisons of n with m networks that find a true `distance`, at level 0.05.

    It depends on where the distributions differ, so this is the mean of two cases, simulated with a fixed
    seed: all errors shifted, which is found most easily, and networks moved from one side of a single error
    to the other, the rest staying as it was, which is found with difficulty.
    """
    _check_sizes(n, m)
    if not 0 <= distance <= 1:
        raise UserError(f"a distance lies between 0 and 1, not {distance}")
    few_n, few_m = min(n, LARGEST), min(m, LARGEST)
    # What counts is the distance in units of its standard error.
    distance = min(1.0, distance * math.sqrt(n * m / (n + m) * (few_n + few_m) / (few_n * few_m)))
    critical = ks_critical(few_n, few_m) - 1e-9
    uniform, other = _draws(few_n, few_m)
    found = [(_distances(uniform, each) >= critical).mean() for each in _alternatives(other, distance)]
    return float(np.mean(found))


@lru_cache(maxsize=256)
def ks_detectable(n: int, m: int, power: float = 0.8) -> float | None:
    """The smallest true distance that n and m networks show in a share `power` of comparisons; None where
    even two distributions that do not overlap are not told apart."""
    if not 0 < power < 1:
        raise UserError(f"power must lie between 0 and 1, not {power}")
    if ks_power(1.0, n, m) < power:
        return None
    low, high = 0.0, 1.0
    while high - low > 0.002:
        middle = (low + high) / 2
        low, high = (low, middle) if ks_power(middle, n, m) >= power else (middle, high)
    return high


def _check_sizes(n: int, m: int) -> None:
    if n < 1 or m < 1:
        raise UserError(f"a comparison needs at least one network a side, not {n} and {m}")


@lru_cache(maxsize=2)
def _draws(n: int, m: int) -> tuple[FloatArray, FloatArray]:
    """CASES samples of n and of m uniform numbers, sorted."""
    generator = np.random.default_rng(0)
    return np.sort(generator.random((CASES, n)), axis=1), np.sort(generator.random((CASES, m)), axis=1)


def _alternatives(uniform: FloatArray, distance: float) -> tuple[FloatArray, FloatArray]:
    """The samples as if drawn from two distributions that are `distance` away from the uniform one."""
    shift = 2 * norm.ppf((1 + min(distance, 1 - 1e-12)) / 2)
    shifted = norm.cdf(norm.ppf(uniform) + shift)
    # The networks in (start, edge) move to (edge, 1).
    edge = (1 + distance) / 2
    start = edge - distance
    moved = np.where(
        (uniform > start) & (uniform <= edge),
        edge + (uniform - start) * (1 - edge) / max(distance, 1e-12),
        uniform,
    )
    return shifted, np.sort(moved, axis=1, kind="stable")


def _distances(a: FloatArray, b: FloatArray) -> FloatArray:
    """The Kolmogorov-Smirnov distance of each row of `a` to that row of `b`; rows are sorted."""
    n, m = a.shape[1], b.shape[1]
    order = np.argsort(np.concatenate([a, b], axis=1), axis=1, kind="stable")
    return np.abs(np.cumsum(np.where(order < n, 1 / n, -1 / m), axis=1)).max(axis=1)
