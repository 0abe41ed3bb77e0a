"""Show how runs stand: state, epoch, accuracy, time left, restarts.

`anynet status [RUN...]` looks at run folders, or at folders of them (default: runs/), of this machine and of
SLURM jobs. A run whose process or job is gone is shown as dead, whatever it last said of itself; one whose
files are damaged is shown with what can be known of it, and with the names of those files.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anynet_dist.cluster.status import RunStatus


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the runs."""
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="run folders, or folders of them (default: runs)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a run")


def run(args: argparse.Namespace) -> None:
    """Print one line per run."""
    from dataclasses import asdict

    from anynet_dist.cluster.status import find_runs, statuses

    found = statuses(find_runs(args.runs or [Path("runs")]))
    if args.json:
        import json

        for status in found:
            print(json.dumps(asdict(status)))
    else:
        _print_table(found)


def _print_table(found: list[RunStatus]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("run", "state", "epoch", "top-1", "time left", "restarts", "where"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("run", "state", "where") else "right")
    for status in found:
        cells = (
            status.run,
            status.state,
            _epoch(status),
            "" if status.accuracy is None else f"{status.accuracy:.2%} {status.accuracy_of}",
            _time_left(status.eta_seconds),
            str(status.restarts or ""),
            status.where,
        )
        table.add_row(*(Text(_printable(cell)) for cell in cells))
    console = Console(highlight=False)
    needed = console.measure(table, options=console.options.update(width=1000)).maximum
    console.width = max(console.width, needed)
    console.print(table)
    for status in found:
        if status.reason:
            line = f"  {status.run} {status.state}: {status.reason}"
            console.print(_printable(line, "\n"), markup=False, soft_wrap=True)


def _epoch(status: RunStatus) -> str:
    if status.epoch is None:
        return ""
    return str(status.epoch) if status.epochs is None else f"{status.epoch}/{status.epochs}"


def _printable(text: str, allowed: str = "") -> str:
    """Text of a file, or a folder's name, without what a terminal would obey or could not show."""
    return "".join(letter if letter.isprintable() or letter in allowed else "?" for letter in text)


def _time_left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
