"""What a parameter of a space is drawn from: a grid of values with weights, or an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anynet_dist.system.errors import UserError

Value = int | float | str


@dataclass(frozen=True)
class Grid:
    """Finitely many values, each drawn with its own probability."""

    values: tuple[Value, ...]
    probabilities: tuple[float, ...]

    @property
    def count(self) -> int:
        """How many values there are."""
        return len(self.values)

    def draw(self, generator: np.random.Generator, shape: tuple[int, int]) -> NDArray[Any]:
        """Values of that shape."""
        values = np.array(self.values, object if isinstance(self.values[0], str) else None)
        return values[generator.choice(len(self.values), shape, p=self.probabilities)]


@dataclass(frozen=True)
class Interval:
    """Real numbers between two bounds, uniform or with a uniform logarithm."""

    low: float
    high: float
    logarithmic: bool = False
    count: None = None

    def draw(self, generator: np.random.Generator, shape: tuple[int, int]) -> NDArray[Any]:
        """Values of that shape."""
        if self.logarithmic:
            return np.exp(generator.uniform(math.log(self.low), math.log(self.high), shape))
        return generator.uniform(self.low, self.high, shape)


Distribution = Grid | Interval


def choice(values: Sequence[Value]) -> Grid:
    """Each of the values alike. Raises UserError where one comes twice."""
    if len(set(values)) != len(values):
        raise UserError("has a value twice")
    return _alike(values)


def power_of_two(low: float, high: float) -> Grid:
    """The powers of two from `low` to `high`, each alike."""
    return _alike(_powers(low, high))


def uniform(low: float, high: float, multiple_of: float | None = None) -> Distribution:
    """All multiples within the bounds alike, whole numbers where the bounds are whole; else an interval."""
    if multiple_of is None and not (isinstance(low, int) and isinstance(high, int)):
        return Interval(low, high)
    return _alike(_multiples(low, high, multiple_of or 1))


def log_uniform(low: float, high: float, multiple_of: float | None = None) -> Distribution:
    """A uniform logarithm, rounded to the nearest multiple within the bounds, or to whole numbers where the
    bounds are whole: each value has the probability of what is rounded to it."""
    if low <= 0:
        raise UserError(f"must lie above 0, not from {low}")
    if multiple_of is None and not (isinstance(low, int) and isinstance(high, int)):
        return Interval(low, high, logarithmic=True)
    return _log_grid(_multiples(low, high, multiple_of or 1), low, high)


def power_of_two_or_log(low: float, high: float, multiple_of: float) -> Grid:
    """As `log_uniform`, but what is smaller than `multiple_of` is rounded to powers of two."""
    if low <= 0:
        raise UserError(f"must lie above 0, not from {low}")
    powers = [power for power in _powers(low, high) if power < multiple_of]
    first = math.ceil(max(low, multiple_of) / multiple_of) * multiple_of
    rest = _multiples(first, high, multiple_of) if first <= high else []
    return _log_grid([*powers, *rest], low, high)


def _alike(values: Sequence[Value]) -> Grid:
    if not values:
        raise UserError("leaves no value")
    return Grid(tuple(values), (1 / len(values),) * len(values))


def _log_grid(values: Sequence[float], low: float, high: float) -> Grid:
    if not values:
        raise UserError("leaves no value")
    between = [(one + other) / 2 for one, other in pairwise(values)]
    edges = np.log([min(low, values[0]), *between, max(high, values[-1])])
    masses = np.diff(edges) if len(values) > 1 else np.ones(1)
    return Grid(tuple(values), tuple((masses / masses.sum()).tolist()))


def _powers(low: float, high: float) -> list[int]:
    if low < 1:
        raise UserError(f"must lie at 1 or above, not from {low}")
    return [2**power for power in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]


def _multiples(low: float, high: float, step: float) -> list[float]:
    """Rounded, so that 0.1 counts as the decimal that was written."""
    if step <= 0:
        raise UserError(f"multiple_of must be above 0, not {step}")
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if last - first >= 10_000_000:
        raise UserError(f"has {last - first + 1:,} values: choose a larger multiple_of")
    if isinstance(step, int):
        return [step * number for number in range(first, last + 1)]
    return [float(f"{step * number:.12g}") for number in range(first, last + 1)]
