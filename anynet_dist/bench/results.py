"""What a benchmark found: a table for people, and the same figures and more as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from anynet_dist.bench.rounds import Timing
from anynet_dist.system.files import write_json

STDOUT = "-"
"""In place of a file for the JSON."""
WIDE = 160
Row = dict[str, Any]


def speed(images: int, timing: Timing) -> Row:
    """The part of a row that tells how fast rounds of so many images were."""
    return {
        "images_per_second": images / timing.seconds,
        "images_per_cpu_second": images / timing.cpu_seconds,
        "seconds": timing.wall,
        "cpu_seconds": timing.cpu,
    }


def compare(rows: list[Row], among: str | None = None) -> None:
    """Add to each row its speed over that of the first, or of the first with the same value of `among`."""
    for row in rows:
        first = next(other for other in rows if among is None or other[among] == row[among])
        row["ratio"] = row["images_per_second"] / first["images_per_second"]
        row["cpu_ratio"] = row["images_per_cpu_second"] / first["images_per_cpu_second"]


def show(
    rows: Sequence[Row], columns: Mapping[str, str], facts: Mapping[str, Any], target: str | None
) -> None:
    """Print a table of `columns`: the rows' keys and what to call them.

    `facts` go with it: its `title`, its `notes`, a sentence each. With `target` they are printed as JSON in
    place of the table, or written to that file beside it, atomically.
    """
    if target == STDOUT:
        print(json.dumps({**facts, "rows": rows}, indent=2))  # noqa: T201
        return
    terminal = Console()
    # Text that goes into a file is as wide as it needs to be.
    console = terminal if terminal.is_terminal else Console(width=WIDE)
    table, notes = table_of(rows, columns)
    console.print(f"{facts['title']}\n", highlight=False)
    console.print(table)
    console.print("\n".join(["", *notes, *facts["notes"]]), highlight=False)
    if target is not None:
        write_json(target, {**facts, "rows": rows})


def table_of(rows: Sequence[Row], columns: Mapping[str, str]) -> tuple[Table, list[str]]:
    """The table, and what it leaves out: columns of words that are the same in all rows.

    A column without any value is left out, too.
    """
    words = {key for key in columns if any(isinstance(row.get(key), str) for row in rows)}
    same = [key for key in columns if key in words and len({row.get(key) for row in rows}) == 1]
    same = same if len(rows) > 1 else []
    shown = [key for key in columns if key not in same and any(row.get(key) is not None for row in rows)]
    table = Table(box=None, pad_edge=False)
    for key in shown:
        table.add_column(columns[key], justify="left" if key in words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(key, row.get(key)) for key in shown))
    alike = ", ".join(f"{columns[key]} {rows[0][key]}".replace("\n", " ") for key in same)
    return table, [f"all rows: {alike}"] if alike else []


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
