"""Options that several benchmarks take."""

from __future__ import annotations

import argparse
from pathlib import Path

from anynet_dist.bench.results import STDOUT
from anynet_dist.system.files import check_outputs


def count(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark print its figures as JSON, or write them to a file beside the table."""
    parser.add_argument(
        "--json",
        nargs="?",
        const=STDOUT,
        metavar="FILE",
        help="print JSON in place of the table; with FILE, write it there beside the table",
    )


def check_json_option(target: str | None) -> None:
    """Raise UserError where the JSON file cannot be written, before anything is measured."""
    if target is not None and target != STDOUT:
        check_outputs(Path(target), overwrite=True)


def add_pacing(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark of whole trainings set how long it measures."""
    parser.add_argument("--rounds", type=count, default=5, help="timed rounds (default: %(default)s)")
    parser.add_argument("--steps", type=count, default=10, help="steps in a round (default: %(default)s)")
    parser.add_argument(
        "--warm-up", type=count, default=3, help="steps before the first round (default: %(default)s)"
    )
    parser.add_argument("--threads", type=count, help="threads on a CPU (default: torch's)")


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark stay on the CPU, or on few of its cores."""
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    parser.add_argument("--threads", type=count, help="threads on a CPU (default: torch's)")
