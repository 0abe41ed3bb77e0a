"""Weights that give populations the same distribution of complexity (NDS, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from anynet_dist.sweep.statistics.columns import FloatArray
from anynet_dist.system.errors import UserError


@dataclass(frozen=True, kw_only=True, eq=False)
class ComplexityWeights:
    """A weight for each network of each population."""

    edges: FloatArray
    """Edges of the bins: of equal width, over the range of complexity that all populations reach."""
    shared: tuple[bool, ...]
    """Whether every population has a network in the bin."""
    weights: tuple[FloatArray, ...]
    """For each population one weight a network; they sum to 1."""
    left_out: tuple[int, ...]
    """For each population the networks of weight 0: outside the shared bins, or of unknown complexity."""


def complexity_weights(complexities: Sequence[ArrayLike], bins: int = 10) -> ComplexityWeights:
    """Weights that make the complexity of each population uniform over the bins that all of them share.

    A network in a shared bin weighs 1 / (K * m), with K shared bins and m networks of its population in that
    bin ("On Network Design Spaces for Visual Recognition", Radosavovic et al., 2019, section 4).

    Raises UserError for fewer than two populations, and where no bin is shared.
    """
    populations = [np.asarray(values, dtype=float) for values in complexities]
    if len(populations) < 2:
        raise UserError("complexity is normalised between two populations or more")
    if bins < 1:
        raise UserError(f"bins must be at least 1, not {bins}")
    edges = _edges(populations, bins)
    places = [_places(values, edges) for values in populations]
    counts = np.array([np.bincount(place[place >= 0], minlength=len(edges) - 1) for place in places])
    shared = counts.min(axis=0) > 0
    if not shared.any():
        raise UserError(f"the populations share none of the {bins} bins of complexity: take fewer bins")
    weights = tuple(_weights(*each, shared) for each in zip(places, counts, strict=True))
    return ComplexityWeights(
        edges=edges,
        shared=tuple(map(bool, shared)),
        weights=weights,
        left_out=tuple(int((weight == 0).sum()) for weight in weights),
    )


def _edges(populations: Sequence[FloatArray], bins: int) -> FloatArray:
    known = [values[np.isfinite(values)] for values in populations]
    if not all(values.size for values in known):
        raise UserError("a population has no network of known complexity")
    low, high = max(values.min() for values in known), min(values.max() for values in known)
    if low > high:
        raise UserError(
            f"the populations share no complexity: one ends at {high:g}, another begins at {low:g}"
        )
    return np.linspace(low, high, bins + 1) if low < high else np.array([low, high])


def _places(values: FloatArray, edges: FloatArray) -> np.ndarray:
    """The bin of each value; -1 outside. The last bin holds its upper edge."""
    place = np.searchsorted(edges, values, side="right") - 1
    place[values == edges[-1]] = len(edges) - 2
    return np.where((values >= edges[0]) & (values <= edges[-1]), place, -1)


def _weights(place: np.ndarray, counts: np.ndarray, shared: np.ndarray) -> FloatArray:
    of_bin = np.where(shared, 1 / (shared.sum() * np.maximum(counts, 1)), 0.0)
    return np.where(place >= 0, of_bin[place], 0.0)
