"""The numbers that a report shows, as plain lists: computed once for page, tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from anynet_dist.sweep.population import Member, Population
from anynet_dist.sweep.statistics import (
    best_range,
    compare,
    complexity_weights,
    edf,
    edf_band,
    fit_quantised_linear,
    numeric_columns,
    rank_correlations,
    search_efficiency,
    seed_noise,
    trained_errors,
)
from anynet_dist.system.errors import UserError

MEASURES = ("flops", "params", "acts")
POINTS = 200
"""Of a curve on the page, at most."""
MOST_FITTED = 300
"""Networks, in all, whose widths are fitted by a quantised linear function: it takes milliseconds each."""
FEWEST = 8
"""Networks that a best range and a correlation need to say anything."""


@dataclass(frozen=True)
class Figures:
    """All that is shown, ready for JSON."""

    data: dict[str, Any]


def figures_of(populations: Sequence[Population]) -> Figures:
    """The figures of populations. Raises UserError where one has no trained network, or two have one name."""
    if not populations:
        raise UserError("a report needs a population")
    names = [population.name for population in populations]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two populations are called '{name}': a report tells them apart by their names")
    for population in populations:
        if not population.trained:
            raise UserError(f"{population.name}: no member has been trained yet")
    if sum(len(population.members) for population in populations) <= MOST_FITTED:
        populations = [_fitted(population) for population in populations]
    shown = [_population(population) for population in populations]
    comparable = [each for each in populations if each.kind != "searched"]
    for population, weighted in _normalised(comparable):
        shown[names.index(population.name)] |= weighted
    return Figures({"populations": shown, "comparisons": _comparisons(comparable)})


def _fitted(population: Population) -> Population:
    """With e_fit among the parameters of each network whose widths are known."""
    members = []
    for member in population.members:
        known = bool(member.stages) and all(stage.width for stage in member.stages)
        fit = {"e_fit": fit_quantised_linear(member.stages).e_fit} if known else {}
        members.append(replace(member, parameters={**member.parameters, **fit}))
    return replace(population, members=tuple(members))


def _population(population: Population) -> dict[str, Any]:
    errors = trained_errors(population)
    about: dict[str, Any] = {
        "name": population.name,
        "kind": population.kind,
        "n": len(population.members),
        "trained": len(errors),
        "origin": population.origin,
        "min": float(errors.min()),
        "mean": float(errors.mean()),
        "median": float(np.median(errors)),
        "pareto": _pareto(population),
        "members": [_member(member, population) for member in population.members],
    }
    if population.kind != "searched":
        about |= _distribution(population)
    return about


def _distribution(population: Population) -> dict[str, Any]:
    """What only a sampled population can say of its space."""
    errors = trained_errors(population)
    distribution, (low, high) = edf(errors), edf_band(errors)
    search = search_efficiency(errors)
    k = np.unique(np.geomspace(1, len(errors), min(POINTS, len(errors))).round().astype(int))
    columns = {
        name: column
        for name, column in numeric_columns(population).items()
        if np.isfinite(column).sum() >= FEWEST and len(np.unique(column[np.isfinite(column)])) > 1
    }
    noise = seed_noise(population.results[member.id].errors for member in population.trained)
    thin = _thinned(len(distribution.errors))
    return {
        "edf": _pairs(distribution.errors[thin], distribution.shares[thin]),
        "band": _pairs(low[thin], high[thin]),
        "search": [
            [int(n), *_rounded(search.expected[n - 1], search.low[n - 1], search.high[n - 1])] for n in k
        ],
        "ranges": {name: asdict(best_range(column, errors)) for name, column in columns.items()},
        "correlations": {
            name: asdict(found)
            for name, found in rank_correlations(
                {m: columns[m] for m in MEASURES if m in columns}, errors
            ).items()
        },
        "noise": None if noise is None else asdict(noise),
    }


def _normalised(populations: Sequence[Population]) -> list[tuple[Population, dict[str, Any]]]:
    """The EDF of each population with equal multiply-adds; none where they cannot be made equal."""
    columns = [numeric_columns(population).get("flops") for population in populations]
    if len(populations) < 2 or any(column is None for column in columns):
        return []
    try:
        weights = complexity_weights([column for column in columns if column is not None])
    except UserError:
        return []
    found = []
    for number, population in enumerate(populations):
        weighted = edf(trained_errors(population), weights.weights[number])
        thin = _thinned(len(weighted.errors))
        found.append(
            (
                population,
                {
                    "normalised": _pairs(weighted.errors[thin], weighted.shares[thin]),
                    "normalised_left_out": weights.left_out[number],
                    "normalised_median": weighted.median,
                },
            )
        )
    return found


def _comparisons(populations: Sequence[Population]) -> list[dict[str, Any]]:
    return [
        {"a": a.name, "b": b.name, **asdict(compare(trained_errors(a), trained_errors(b), (a.name, b.name)))}
        for a, b in combinations(populations, 2)
    ]


def _member(member: Member, population: Population) -> dict[str, Any]:
    result = population.results.get(member.id)
    return {
        "id": member.id,
        "e": None if result is None else _rounded(result.error)[0],
        "errors": [] if result is None else _rounded(*result.errors),
        "curve": [] if result is None else [_rounded(*point) for point in result.curve],
        "c": member.complexity,
        "p": member.parameters,
        "s": [
            [stage.block, stage.depth, stage.width, stage.bottleneck_ratio, stage.group_width]
            for stage in member.stages
        ],
    }


def _pareto(population: Population) -> list[str]:
    """The networks that no other beats in both error and multiply-adds."""
    priced = [member for member in population.trained if "flops" in member.complexity]
    order = sorted(
        priced, key=lambda member: (member.complexity["flops"], population.results[member.id].error)
    )
    front, best = [], float("inf")
    for member in order:
        if population.results[member.id].error < best:
            best = population.results[member.id].error
            front.append(member.id)
    return front


def _thinned(count: int) -> Any:
    """Indices of at most POINTS of `count` points, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(POINTS, count)).round().astype(int))


def _pairs(x: Any, y: Any) -> list[list[float]]:
    return [_rounded(*pair) for pair in zip(x, y, strict=True)]


def _rounded(*values: float) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
