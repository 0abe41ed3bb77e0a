"""How good the best network of a random search is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from anynet_dist.sweep.statistics.columns import FloatArray, checked_errors
from anynet_dist.system.errors import UserError


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchEfficiency:
    """The lowest error among k networks, for k = 1, 2, ..., n."""

    expected: FloatArray
    low: FloatArray
    """The lower percentile of the lowest error, by default the 5th."""
    high: FloatArray
    """The upper one, by default the 95th."""


def search_efficiency(errors: ArrayLike, tail: float = 0.05) -> SearchEfficiency:
    """The lowest error of k networks drawn without replacement: exact, for all k.

    With errors e_1 <= ... <= e_n, the lowest of k exceeds e_i in C(n - i, k) / C(n, k) of the draws. That
    share follows from k to k + 1 by the factor (n - i - k) / (n - k).
    """
    if not 0 < tail < 0.5:
        raise UserError(f"tail must lie between 0 and 0.5, not {tail}")
    values = np.sort(checked_errors(errors))
    n = len(values)
    gaps = np.diff(values)
    above = np.arange(n - 1, 0, -1) / n  # the share of draws whose lowest error exceeds e_1, ..., e_(n-1)
    expected, low, high = np.empty(n), np.empty(n), np.empty(n)
    for k in range(1, n + 1):
        expected[k - 1] = values[0] + above @ gaps[: len(above)]
        for bound, share in ((low, 1 - tail), (high, tail)):  # the first e_i exceeded in no more than `share`
            bound[k - 1] = values[len(above) - np.searchsorted(above[::-1], share + 1e-12, side="right")]
        # No draw of k + 1 can exceed the last of these.
        above = (above * (np.arange(n - 1, n - 1 - len(above), -1) - k) / max(1, n - k))[:-1]
    return SearchEfficiency(expected=expected, low=low, high=high)
