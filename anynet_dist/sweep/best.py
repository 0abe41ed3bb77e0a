"""The best network of a population as a run config of its own, with what speaks for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anynet_dist.config.dump import dump_options
from anynet_dist.config.errors import Problem
from anynet_dist.config.yaml_reader import read_settings
from anynet_dist.sweep.members import BASE, CONFIGS, base_options, config_file
from anynet_dist.sweep.population import Member, Population
from anynet_dist.sweep.progress import collect
from anynet_dist.sweep.sketch import sketch
from anynet_dist.sweep.statistics import best_range, numeric_columns, trained_errors
from anynet_dist.system.errors import UserError


def best_member(population: Population) -> Member:
    """The member with the lowest error. Raises UserError where none has been trained."""
    if not population.trained:
        raise UserError(f"{population.name}: no member has been trained yet")
    return min(population.trained, key=lambda member: population.results[member.id].error)


def best_config(folder: Path, config: Path | None, overrides: Sequence[str]) -> str:
    """A run config that trains the best network of the population in `folder` by the recipe in `config`, or
    by that of the population; the comment above says why this one. Raises UserError where there is none.
    """
    population = collect(folder)
    best = best_member(population)
    file = config_file(folder, best.id)
    if not file.is_file():
        raise UserError(f"{file} is missing: the networks of a published population cannot be trained here")
    recipe = base_options(config or folder / CONFIGS / BASE, overrides)
    problems: list[Problem] = []
    own = {key: setting.value for key, setting in read_settings(file, problems).items()}
    own = {key: value for key, value in own.items() if not key.startswith(("base", "run.", "tracking."))}
    name = {"run.name": f"{population.name}-{best.id}-full"}
    return "".join(f"# {line}\n" for line in reasons(population, best)) + dump_options(name | recipe | own)


def reasons(population: Population, best: Member) -> list[str]:
    """What speaks for the best network, and how sure it is."""
    error, trained = population.results[best.id].error, len(population.trained)
    lines = [
        f"Network {best.id} of the population {population.name}: {sketch(best)}.",
        f"Top-1 error {error:.2f} %, the lowest of {trained} {population.kind} networks.",
    ]
    if population.kind == "searched":
        return [*lines, "The population was searched, not sampled: it says nothing about where others lie."]
    if trained < 8:
        return [*lines, "Too few networks to say where the best of the space lies."]
    lines.append(
        "Where the best of such populations lie: median and 95 % interval of bootstrap draws of 25 %:"
    )
    return lines + [f"  {line}" for line in _ranges(population, best)]


def _ranges(population: Population, best: Member) -> list[str]:
    errors, lines = trained_errors(population), []
    values: dict[str, Any] = {**best.complexity, **best.parameters}
    for name, column in numeric_columns(population).items():
        known = ~np.isnan(column)
        if known.sum() < 8 or len(set(column[known])) < 2:
            continue
        found = best_range(column[known], errors[known])
        own = values.get(name)
        here = f", here {own:.4g}" if isinstance(own, float | int) else ""
        lines.append(f"{name}: {found.median:.4g} ({found.low:.4g} to {found.high:.4g}){here}")
    return lines
