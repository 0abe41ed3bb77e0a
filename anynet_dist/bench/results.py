"""What a benchmark found: a table for people, and the same figures and more as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from anynet_dist.system.files import write_json

STDOUT = "-"
"""In place of a file for the JSON."""
WIDE = 160
Row = dict[str, Any]


def show(table: Table, facts: Mapping[str, Any], target: str | None) -> None:
    """Print the table, or the facts as JSON; with a file as `target` write them there too, atomically."""
    if target == STDOUT:
        print(json.dumps(facts, indent=2))  # noqa: T201
        return
    terminal = Console()
    # Text that goes into a file is as wide as it needs to be.
    console = terminal if terminal.is_terminal else Console(width=WIDE)
    console.print(table)
    if target is not None:
        write_json(target, facts)


def table_of(rows: Sequence[Row], columns: Mapping[str, str], title: str, notes: Sequence[str] = ()) -> Table:
    """A table of `columns`: the rows' keys and what to call them.

    A column of words that are the same in all rows becomes a note, one without any value is left out.
    """
    words = {key for key in columns if any(isinstance(row.get(key), str) for row in rows)}
    same = {key for key in words if len(rows) > 1 and len({row.get(key) for row in rows}) == 1}
    shown = [key for key in columns if key not in same and any(row.get(key) is not None for row in rows)]
    alike = ", ".join(f"{columns[key]} {rows[0][key]}".replace("\n", " ") for key in columns if key in same)
    caption = "\n".join([*([f"all: {alike}"] if alike else []), *notes])
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left", box=None)
    for key in shown:
        table.add_column(columns[key], justify="left" if key in words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(key, row.get(key)) for key in shown))
    return table


def _cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if "ratio" in key:
        return f"{value:.2f}x"
    if "share" in key or key == "mfu":
        return f"{value:.0%}" if value >= 0.1 else f"{value:.1%}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
