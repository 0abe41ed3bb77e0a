"""The report of runs: one HTML page that needs nothing else, and its tables as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from anynet_dist.report.html import assemble
from anynet_dist.report.run_figures import CHARTS, figures_of, summary
from anynet_dist.report.run_record import RunRecord
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import write_text


def write_report(runs: Sequence[RunRecord], out: Path) -> None:
    """Write the page. Raises UserError where two runs have one name."""
    names = [run.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two runs are called '{name}': name other folders")
    page = files("anynet_dist.report") / "page"
    write_text(out, assemble(page, {**figures_of(runs), "charts": [list(each) for each in CHARTS]}))


def write_tables(runs: Sequence[RunRecord], folder: Path) -> None:
    """Write runs.csv, a row for each run, and records.csv, a row for each record of their logs."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"run": run.name, **summary(run)} for run in runs]
    write_text(folder / "runs.csv", _csv(rows))
    records = [
        {"run": run.name, **{key: value for key, value in record.items() if not isinstance(value, list)}}
        for run in runs
        for record in run.records
    ]
    write_text(folder / "records.csv", _csv(records))


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
