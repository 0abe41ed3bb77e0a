"""Rank correlation of error with complexity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import spearmanr

from anynet_dist.system.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Spearman's rank correlation."""

    rho: float | None
    """From -1 to 1; None where it is undefined: fewer than 3 networks, or one value throughout."""
    p: float | None
    """How often unrelated values correlate as much."""
    n: int
    """Networks whose value is known."""


def rank_correlation(values: ArrayLike, errors: ArrayLike) -> Correlation:
    """Spearman's correlation of `values` with `errors`; networks of unknown value (NaN) are left out."""
    value, error = np.asarray(values, dtype=float), np.asarray(errors, dtype=float)
    if value.shape != error.shape:
        raise UserError(f"{error.size} errors need {error.size} values, not {value.size}")
    known = np.isfinite(value) & np.isfinite(error)
    value, error = value[known], error[known]
    n = len(value)
    if n < 3 or np.ptp(value) == 0 or np.ptp(error) == 0:
        return Correlation(rho=None, p=None, n=n)
    result = spearmanr(value, error)
    return Correlation(rho=float(result.statistic), p=float(result.pvalue), n=n)


def rank_correlations(columns: Mapping[str, ArrayLike], errors: ArrayLike) -> dict[str, Correlation]:
    """The correlation of each of `columns` (such as `numeric_columns`) with `errors`."""
    return {name: rank_correlation(values, errors) for name, values in columns.items()}
