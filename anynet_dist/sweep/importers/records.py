"""What importers share: reading a file, and taking values out of it with messages that say where they are."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anynet_dist.sweep.population import Member, Result, Stage
from anynet_dist.system.errors import UserError

MEASURES = ("flops", "params", "acts")
ERROR_RANGE = (0.0, 100.0)
MULTIPLIERS = (1e-3, 1e3)
"""The range of a bottleneck's multiplier."""
LARGEST_COUNT = 10**6
"""No depth, width or number of groups is larger."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The networks of a file."""

    members: Sequence[Member]
    results: Sequence[Result]
    origin: Mapping[str, Any]
    """What the format adds to the population's origin."""


def read_file(file: Path) -> bytes:
    """The content of `file`; raises UserError."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file} does not exist") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None


def read_json(file: Path) -> Any:
    """The JSON in `file`; raises UserError."""
    try:
        return json.loads(read_file(file))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: {error}") from None


def as_list(where: str, value: Any) -> list[Any]:
    """`value`, which must be a list with something in it."""
    if not isinstance(value, list) or not value:
        raise UserError(f"{where} must be a list with at least one entry, not {shown(value)}")
    return value


def as_number(where: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """`value`, which must be a finite number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where} must be a number, not {shown(value)}")
    if not (abs(value) <= sys.float_info.max and low <= value <= high):
        raise UserError(f"{where} must be a finite number{_bounds(low, high)}, not {shown(value)}")
    return value


def as_count(where: str, value: Any, low: int = 1) -> int:
    """`value`, which must be a whole number of at least `low`."""
    number = as_number(where, value, low, LARGEST_COUNT)
    if number != int(number):
        raise UserError(f"{where} must be a whole number, not {shown(value)}")
    return int(number)


@dataclass(frozen=True)
class Record:
    """An object in a file, by keys."""

    where: str
    """The file and the place in it, as messages name it."""
    values: Mapping[str, Any]

    @classmethod
    def of(cls, where: str, value: Any) -> Record:
        """The record `value`, which must be an object with keys."""
        if not isinstance(value, dict):
            raise UserError(f"{where} must be an object with keys, not {shown(value)}")
        return cls(where, value)

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def name(self, key: str) -> str:
        """How messages name the value of `key`."""
        return f"{self.where}: {key}"

    def get(self, key: str) -> Any:
        """The value of `key`, which must be there."""
        if key not in self.values:
            keys = ", ".join(map(shown, list(self.values)[:12]))
            raise UserError(f"{self.where} has no '{key}' (its keys: {keys})")
        return self.values[key]

    def record(self, key: str) -> Record:
        """The object of `key`."""
        return Record.of(self.name(key), self.get(key))

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        """The finite number of `key`."""
        return as_number(self.name(key), self.get(key), low, high)

    def count(self, key: str, low: int = 1) -> int:
        """The whole number of `key`."""
        return as_count(self.name(key), self.get(key), low)

    def text(self, key: str) -> str:
        """The text of `key`."""
        value = self.get(key)
        if not isinstance(value, str):
            raise UserError(f"{self.name(key)} must be text, not {shown(value)}")
        return value

    def numbers(self, key: str, low: float = -math.inf, high: float = math.inf) -> list[float]:
        """The finite numbers of `key`, at least one."""
        values = as_list(self.name(key), self.get(key))
        return [as_number(f"{self.name(key)}[{i}]", value, low, high) for i, value in enumerate(values)]

    def counts(self, key: str, low: int = 1) -> list[int]:
        """The whole numbers of `key`, at least one."""
        values = as_list(self.name(key), self.get(key))
        return [as_count(f"{self.name(key)}[{i}]", value, low) for i, value in enumerate(values)]

    def complexity(self) -> dict[str, float]:
        """Those of flops, params and acts that are there."""
        return {key: self.number(key, low=0) for key in MEASURES if key in self}


def number_ids(count: int) -> list[str]:
    """Ids for networks that have none: 0000, 0001, ..."""
    return [f"{index:0{max(4, len(str(count - 1)))}d}" for index in range(count)]


def numbered(name: str, values: Iterable[float]) -> dict[str, float | str]:
    """A parameter of each stage: name1, name2, ..."""
    return {f"{name}{index}": value for index, value in enumerate(values, 1)}


def stages_of(
    block: str,
    depths: Sequence[int],
    widths: Sequence[int],
    ratios: Sequence[float] | None = None,
    group_widths: Sequence[int] | None = None,
) -> tuple[Stage, ...]:
    """The stages with these depths, widths and, where they are known, bottleneck ratios and group widths."""
    return tuple(
        Stage(
            block=block,
            depth=depth,
            width=widths[index],
            bottleneck_ratio=ratios[index] if ratios else None,
            group_width=group_widths[index] if group_widths else None,
        )
        for index, depth in enumerate(depths)
    )


def check_lengths(record: Record, lists: Mapping[str, Sequence[Any] | None]) -> None:
    """Raise UserError unless the lists of a record that are there are equally long."""
    lengths = {key: len(values) for key, values in lists.items() if values is not None}
    if len(set(lengths.values())) > 1:
        stated = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise UserError(f"{record.where}: lists of one entry a stage differ in length ({stated})")


def _bounds(low: float, high: float) -> str:
    if high < math.inf:
        return f" from {low:g} to {high:g}"
    return f" of at least {low:g}" if low > -math.inf else ""


def shown(value: Any) -> str:
    """`value` as messages show it: on one line, and short."""
    if isinstance(value, dict | list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 128:  # Python refuses to print the largest
        return "a huge number"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
