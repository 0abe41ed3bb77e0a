"""The numbers of a population as arrays, in the order of its trained networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anynet_dist.sweep.population import Population
from anynet_dist.system.errors import UserError

FloatArray = NDArray[np.float64]


def trained_errors(population: Population) -> FloatArray:
    """The error of each trained network: the mean of its trainings."""
    return np.array([population.results[member.id].error for member in population.trained], dtype=float)


def numeric_columns(population: Population) -> dict[str, FloatArray]:
    """Each complexity measure, then each numeric parameter: one value for each trained network.

    What a network does not have is NaN. A parameter that has text anywhere is left out.
    """
    rows = [{**member.parameters, **member.complexity} for member in population.trained]
    measures = _names([member.complexity for member in population.trained])
    names = [*measures, *(name for name in _names(rows) if name not in measures)]
    numeric = [name for name in names if not any(isinstance(row.get(name), str) for row in rows)]
    return {name: np.array([row.get(name, np.nan) for row in rows], dtype=float) for name in numeric}


def _names(rows: Sequence[dict[str, float] | dict[str, float | str]]) -> list[str]:
    """The keys of all rows, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def checked_errors(errors: ArrayLike) -> FloatArray:
    """The errors as an array; raises UserError unless they are a list of at least one finite number."""
    array = np.asarray(errors, dtype=float)
    if array.ndim != 1 or not array.size:
        raise UserError("statistics need the errors of at least one trained network")
    if not np.isfinite(array).all():
        raise UserError("every error must be a finite number")
    return array
