"""Show runs: one page with curves, results, networks and mistakes.

`anynet report RUN...` writes one HTML file that needs nothing else: of one run, or of several to compare. A
run folder, a folder of them, or a folder of an offline W&B run is a RUN.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the runs and what is written."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, or folders of them")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page to write; default: report.html in the run folder, or here for several runs",
    )
    parser.add_argument(
        "--tables", type=Path, metavar="DIR", help="write runs.csv and records.csv there, too"
    )
    parser.add_argument(
        "--pictures", type=Path, metavar="DIR", help="write curves and confusion matrices as PNG there, too"
    )


def run(args: argparse.Namespace) -> None:
    """Read the runs, write the page and what else was asked for."""
    from anynet_dist.report.find_runs import find_runs
    from anynet_dist.report.pictures import write_pictures
    from anynet_dist.report.run_report import write_report, write_tables

    runs = find_runs(args.runs)
    out = args.out or (runs[0].folder / "report.html" if len(runs) == 1 else Path("report.html"))
    write_report(runs, out)
    if args.tables:
        write_tables(runs, args.tables)
    if args.pictures:
        write_pictures(runs, args.pictures)
    print(f"report of {len(runs)} run{'s' if len(runs) > 1 else ''}: {out}")
