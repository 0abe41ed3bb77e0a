"""A population: networks of one space, what they are, what they cost, and how well they did once trained.

A population is a folder:

    DIR/  population.json   where it comes from: sampled, searched or imported, and how
          space.yaml        the space as it was (sampled and searched populations)
          members.jsonl     a line for each network: parameters, complexity, stages
          results.jsonl     a line for each network that was trained (imported populations)
          configs/ID.yaml   a run config of each network (sampled and searched populations)
          runs/ID/          its run folder
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from anynet_dist.system.errors import UserError
from anynet_dist.system.files import write_json, write_text

Kind = Literal["sampled", "searched", "imported"]

POPULATION, MEMBERS, RESULTS, SPACE = "population.json", "members.jsonl", "results.jsonl", "space.yaml"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a network, as it is drawn: what is unknown is None."""

    block: str
    depth: int
    width: int | None = None
    bottleneck_ratio: float | None = None
    group_width: int | None = None


@dataclass(frozen=True, kw_only=True)
class Member:
    """One network of a population."""

    id: str
    """Unique in its population; a plain file name."""
    parameters: dict[str, float | str]
    """What was drawn, by the names of the space: depth1, width1, ..., or those of a published population."""
    complexity: dict[str, float] = field(default_factory=dict)
    """Those known of flops (multiply-adds of one image), params and acts, as plain numbers."""
    stages: tuple[Stage, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Result:
    """How well a member did."""

    id: str
    errors: tuple[float, ...]
    """Top-1 error in percent at the end of each training of this network (repeats: other seeds)."""
    curve: tuple[tuple[float, float], ...] = ()
    """(epoch, top-1 error in percent) along its first training."""

    @property
    def error(self) -> float:
        """The mean of its trainings."""
        return sum(self.errors) / len(self.errors)


@dataclass(frozen=True, kw_only=True)
class Population:
    """Networks and results of one space."""

    name: str
    kind: Kind
    members: tuple[Member, ...]
    results: dict[str, Result] = field(default_factory=dict)
    """Those of the members that have been trained, by the member's id."""
    origin: dict[str, Any] = field(default_factory=dict)
    """How it was made: seed, window, space, source; shown in reports."""

    @property
    def trained(self) -> list[Member]:
        """The members that have a result, in their order."""
        return [member for member in self.members if member.id in self.results]


def write_population(folder: Path, population: Population) -> None:
    """Write population.json, members.jsonl and, where there are results, results.jsonl; population.json last,
    so that a folder that has one is whole. Raises UserError where one is there already."""
    if (folder / POPULATION).exists():
        raise UserError(f"{folder} already holds a population: name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    _write_lines(folder / MEMBERS, (asdict(member) for member in population.members))
    if population.results:
        write_results(folder, population)
    write_about(folder, population)


def write_about(folder: Path, population: Population) -> None:
    """Write population.json. The number of networks is not in that of a search, which adds to them."""
    about = {
        "format": FORMAT,
        "name": population.name,
        "kind": population.kind,
        "members": None if population.kind == "searched" else len(population.members),
        "origin": population.origin,
    }
    write_json(folder / POPULATION, about)


def append_member(folder: Path, member: Member) -> None:
    """Add a network to members.jsonl, which is whole at any time; for one process at a time."""
    written = (folder / MEMBERS).read_text(encoding="utf-8")
    write_text(folder / MEMBERS, written + json.dumps(asdict(member)) + "\n")


def write_results(folder: Path, population: Population) -> None:
    """Write results.jsonl, so that the folder can be read without the members' run folders."""
    _write_lines(folder / RESULTS, (asdict(result) for result in population.results.values()))


def read_population(folder: Path) -> Population:
    """The population of a folder, with the results in results.jsonl. Raises UserError where there is none, or
    a file cannot be understood."""
    file = folder / POPULATION
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{folder} holds no population: there is no {POPULATION}; make one with 'anynet sweep sample'"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UserError(f"{file} is no population of format {FORMAT}")
    members = tuple(_read_lines(folder / MEMBERS, _member))
    if about["members"] is not None and len(members) != about["members"]:
        raise UserError(
            f"{folder / MEMBERS} has {len(members)} networks, {POPULATION} says {about['members']}"
        )
    results = _read_lines(folder / RESULTS, _result) if (folder / RESULTS).exists() else []
    return Population(
        name=about["name"],
        kind=about["kind"],
        members=members,
        results={result.id: result for result in results},
        origin=about["origin"],
    )


def _member(line: Mapping[str, Any]) -> Member:
    return Member(**{**line, "stages": tuple(Stage(**stage) for stage in line["stages"])})


def _result(line: Mapping[str, Any]) -> Result:
    curve = tuple((epoch, error) for epoch, error in line["curve"])
    return Result(id=line["id"], errors=tuple(line["errors"]), curve=curve)


def _write_lines(file: Path, records: Iterable[Mapping[str, Any]]) -> None:
    write_text(file, "".join(json.dumps(record) + "\n" for record in records))


def _read_lines(file: Path, parse: Any) -> Sequence[Any]:
    records = []
    try:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            try:
                records.append(parse(json.loads(line)))
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(f"{file}:{number} cannot be understood: {error}") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    return records
