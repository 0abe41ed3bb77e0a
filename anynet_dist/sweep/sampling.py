"""Drawing networks from a space: unique, within its window, the same for the same seed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anynet_dist.data.workers import process_context
from anynet_dist.models.complexity import Complexity, network_complexity
from anynet_dist.models.vocabulary import network_spec
from anynet_dist.sweep.distributions import Value
from anynet_dist.sweep.space import Draw, Parameter, Space, model_of
from anynet_dist.system.errors import UserError

CHUNK = 1000
"""Draws that share a stream of random numbers; part of what a seed means."""
GIVE_UP = 100
"""Chunks without a single network upon which a window counts as empty."""


@dataclass(frozen=True)
class Sample:
    """One network that was drawn."""

    draw: Draw
    model: dict[str, Any]
    """As the model section of a run config."""
    complexity: Complexity

    @property
    def identity(self) -> str:
        """Equal for two draws of the same network that is trained in the same way."""
        return json.dumps([self.model, _training(self.draw)])


@dataclass
class Drawn:
    """Networks, and what became of all draws."""

    samples: list[Sample] = field(default_factory=list)
    draws: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    """How many draws each reason removed."""

    @property
    def acceptance(self) -> float:
        """The share of draws that are networks of the window; duplicates count as such."""
        return 1 - sum(self.refusals.values()) / self.draws if self.draws else 0.0


def sample(space: Space, number: int, seed: int, workers: int = 1) -> Drawn:
    """`number` different networks of the space's window. The same for any number of worker processes.

    Raises UserError where the window holds none, or has no more: with what removed how many draws.
    """
    drawn, seen = Drawn(), set[str]()
    last = 0
    for chunk_number, chunk in enumerate(_chunks(space, seed, workers)):
        for found in chunk.samples:
            if len(drawn.samples) == number:
                break
            if found.identity not in seen:
                seen.add(found.identity)
                drawn.samples.append(found)
                last = chunk_number
        drawn.draws += chunk.draws
        drawn.refusals += chunk.refusals
        if len(drawn.samples) == number:
            return drawn
        if chunk_number - last >= GIVE_UP:
            raise UserError(_too_few(space, drawn, number))
    raise AssertionError("chunks do not end")


def draw_chunk(space: Space, seed: int, number: int) -> Drawn:
    """All networks of chunk `number` of a seed, duplicates included."""
    chunk = Drawn(draws=CHUNK)
    for draw in _draws(space, np.random.default_rng([seed, number])):
        found = network_of(space, draw)
        if isinstance(found, str):
            chunk.refusals[found] += 1
        else:
            chunk.samples.append(found)
    return chunk


def network_of(space: Space, draw: Draw) -> Sample | str:
    """The network of a draw, or why it is none of the space's window."""
    try:
        model = model_of(space, draw)
        spec = network_spec(**model, num_classes=space.num_classes, check=False)
        complexity = network_complexity(spec, space.resolution)
    except UserError as error:
        return str(error)
    return space.refusal(complexity) or Sample(draw, model, complexity)


def _chunks(space: Space, seed: int, workers: int) -> Iterator[Drawn]:
    work = partial(draw_chunk, space, seed)
    if workers < 2:
        yield from map(work, count())
        return
    with ExitStack() as stack:
        pool = stack.enter_context(
            ProcessPoolExecutor(workers, mp_context=process_context(has_threads=False))
        )
        for first in count(0, workers):
            yield from pool.map(work, range(first, first + workers))


def _draws(space: Space, generator: np.random.Generator) -> Iterator[Draw]:
    columns = {p.name: _values(p, space.stages, generator) for p in space.parameters}
    conditional = [p for p in space.parameters if p.when]
    for row in range(CHUNK):
        draw: Draw = {name: tuple(rows[row]) for name, rows in columns.items()}
        for parameter in conditional:
            draw[parameter.name] = _where(parameter, draw)
        yield draw


def _where(parameter: Parameter, draw: Draw) -> tuple[Any, ...]:
    """The values of a conditional parameter, None in the stages that have none."""
    assert parameter.when is not None
    control, wanted = parameter.when
    controls, values = draw[control], draw[parameter.name]
    stages = max(len(controls), len(values))
    controls, values = (each * (stages // len(each)) for each in (controls, values))
    return tuple(value if held in wanted else None for value, held in zip(values, controls, strict=True))


def _values(parameter: Parameter, stages: int, generator: np.random.Generator) -> list[list[Value]]:
    """CHUNK rows of values: one for each stage that is drawn for."""
    columns = parameter.draws(stages)
    if parameter.across != "ordered":
        rows: NDArray[Any] = parameter.distribution.draw(generator, (CHUNK, columns))
        return rows.tolist()
    kept: list[list[Value]] = []
    while (
        len(kept) < CHUNK
    ):  # draws that are in order by chance: so all such rows stay as likely as they were
        rows = parameter.distribution.draw(generator, (CHUNK * 8, columns))
        kept += rows[(np.diff(rows, axis=1) >= 0).all(axis=1)].tolist()
    return kept[:CHUNK]


def _training(draw: Draw) -> list[tuple[str, Any]]:
    """What is drawn beside the network: options of a run config, such as optim.lr."""
    return sorted((name, value[0]) for name, value in draw.items() if "." in name)


def _too_few(space: Space, drawn: Drawn, wanted: int) -> str:
    removed = "".join(f"\n  {number:,} draws: {reason}" for reason, number in drawn.refusals.most_common(8))
    found = (
        f"only {len(drawn.samples)} different networks of {wanted} found" if drawn.samples else "no network"
    )
    return (
        f"{space.name}: {found} in {drawn.draws:,} draws within the window {window_text(space)};"
        f" what removed the others:{removed}"
    )


def window_text(space: Space) -> str:
    """The bounds of the space, for people."""
    if not space.window:
        return "(none)"
    parts = []
    for measure, bound in space.window.items():
        per_flop = f" + {bound.most_per_flop:g} x flops" if bound.most_per_flop else ""
        parts.append(f"{bound.least:.4g} <= {measure} <= {bound.most:.4g}{per_flop}")
    return ", ".join(parts)
