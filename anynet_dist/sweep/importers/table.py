"""A table of comma-separated values: a header, and one line per training.

The columns: id (optional; lines of one id are trainings of one network), error or top1 or accuracy (percent),
flops, params and acts (plain numbers); every other column is a parameter, a number or text. An empty cell is
unknown.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path

from anynet_dist.sweep.importers.records import (
    ERROR_RANGE,
    MEASURES,
    Imported,
    as_number,
    number_ids,
    read_file,
    shown,
)
from anynet_dist.sweep.population import Member, Result
from anynet_dist.system.errors import UserError

ERROR, ACCURACIES = "error", ("top1", "accuracy")
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")

Row = dict[str, str]


def read(file: Path) -> Imported:
    """The networks of `file`; raises UserError."""
    lines = list(_lines(file))
    if not lines:
        raise UserError(f"{file} has a header and no networks")
    column = _error_column(file, lines[0][1])
    ids = [row.get("id", "") for _, row in lines] if "id" in lines[0][1] else number_ids(len(lines))
    members: dict[str, Member] = {}
    errors: dict[str, list[float]] = {}
    for (where, row), number in zip(lines, ids, strict=True):
        member = _member(where, number, row, column)
        if members.setdefault(number, member) != member:
            raise UserError(f"{where}: network '{number}' was there already, with other values")
        if row[column]:
            errors.setdefault(number, []).append(_number(f"{where}: {column}", row[column], *ERROR_RANGE))
    if column != ERROR:
        errors = _from_accuracies(file, column, errors)
    results = [Result(id=number, errors=tuple(values)) for number, values in errors.items()]
    return Imported(members=list(members.values()), results=results, origin={})


def _lines(file: Path) -> Iterator[tuple[str, Row]]:
    """Each line that is not empty, with its place."""
    try:
        text = read_file(file).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = _header(file, next(reader, []))
        for cells in reader:
            where = f"{file}:{reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise UserError(f"{where} has {len(cells)} cells, the header {len(header)}")
            yield where, dict(zip(header, (cell.strip() for cell in cells), strict=True))
    except csv.Error as error:
        raise UserError(f"{file}:{reader.line_num} cannot be understood: {error}") from None


def _header(file: Path, cells: list[str]) -> list[str]:
    known = {"id", ERROR, *ACCURACIES, *MEASURES}
    names = [cell.strip() for cell in cells]
    names = [name.lower() if name.lower() in known else name for name in names]
    if not any(names):
        raise UserError(f"{file} has no header in its first line")
    if "" in names:
        raise UserError(f"{file}:1: column {names.index('') + 1} has no name")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"{file}:1: there are two columns {shown(twice)}")
    return names


def _error_column(file: Path, row: Row) -> str:
    columns = [name for name in (ERROR, *ACCURACIES) if name in row]
    if len(columns) != 1:
        found = f"there are {' and '.join(columns)}" if columns else "there is none"
        raise UserError(f"{file}:1: one column error, top1 or accuracy (percent) is needed; {found}")
    return columns[0]


def _member(where: str, number: str, row: Row, column: str) -> Member:
    if not PLAIN.fullmatch(number):
        raise UserError(f"{where}: id {shown(number)} must be letters, digits and ._+- only")
    complexity = {name: _number(f"{where}: {name}", row[name], 0) for name in MEASURES if row.get(name)}
    parameters = {
        name: _parameter(f"{where}: {name}", cell)
        for name, cell in row.items()
        if cell and name not in ("id", column, *MEASURES)
    }
    return Member(id=number, parameters=parameters, complexity=complexity)


def _number(where: str, cell: str, low: float = -math.inf, high: float = math.inf) -> float:
    try:
        number = float(cell)
    except ValueError:
        raise UserError(f"{where} must be a number, not {shown(cell)}") from None
    return as_number(where, number, low, high)


def _parameter(where: str, cell: str) -> float | str:
    try:
        number = float(cell)
    except ValueError:
        return cell
    return as_number(where, int(number) if number.is_integer() else number)


def _from_accuracies(file: Path, column: str, accuracies: dict[str, list[float]]) -> dict[str, list[float]]:
    if accuracies and max(map(max, accuracies.values())) <= 1:
        raise UserError(f"{file}: every {column} is 1 or less: percent is needed, such as 76.3")
    return {number: [100 - value for value in values] for number, values in accuracies.items()}
