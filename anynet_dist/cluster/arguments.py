"""The part of a command line that says what a job asks for: GPUs, memory, time, partition."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from anynet_dist.cluster.requests import Gpus, check_memory, check_words, parse_gpus, parse_gres
from anynet_dist.system.errors import UserError

T = TypeVar("T")


def add_request_arguments(parser: argparse.ArgumentParser) -> None:
    """Let a command take what a job asks for, as `request_of` reads it."""
    parser.add_argument(
        "--site", type=Path, required=True, help="settings of your cluster, see slurm/site.example.sh"
    )
    gpus = parser.add_mutually_exclusive_group()
    gpus.add_argument(
        "--gpus-per-node",
        type=_gpus,
        metavar="[TYPE:]N",
        help="such as 4 or a100:4; default: the site's, and one for each member of a sweep",
    )
    gpus.add_argument(
        "--gres", type=_gres, metavar="gpu:[TYPE:]N", help="the same, where a cluster requires --gres"
    )
    parser.add_argument("--memory", type=_memory, metavar="400G", help="per node; default: the site's")
    parser.add_argument("--time", metavar="D-HH:MM:SS", help="time limit of one start; default: the site's")
    for name in ("account", "partition", "qos"):
        parser.add_argument(f"--{name}", default="", metavar="NAME", help="default: the site's")
    parser.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION",
        help="any other option of sbatch, such as --sbatch --mail-type=END; may be repeated, and"
        " hold several options in quotes",
    )
    parser.set_defaults(takes_options=("--sbatch",))
    parser.add_argument("--templates", type=Path, metavar="FOLDER", help="default: those of anynet_dist")
    parser.add_argument("--dry-run", action="store_true", help="print the command and do nothing")


def request_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the job asks for, as fields of submission.Job."""
    gpus = args.gpus_per_node or args.gres
    return {
        "gpus_per_node": gpus.count if gpus else None,
        "gpu_type": gpus.type if gpus else "",
        "gpu_option": "gres" if args.gres else "",
        "account": args.account,
        "partition": args.partition,
        "qos": args.qos,
        "memory": args.memory or "",
        "time": args.time or "",
        "sbatch_options": _sbatch_options(args.sbatch),
    }


def count(text: str) -> int:
    """An argument that is an integer of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, not '{text}'")
    return int(text)


def _sbatch_options(given: list[str]) -> tuple[str, ...]:
    """The words of all --sbatch, checked."""
    try:
        words = [word for text in given for word in shlex.split(text)]
    except ValueError as error:
        raise UserError(f"--sbatch: {error}") from None
    check_words(words, "--sbatch")
    return tuple(words)


def _gpus(text: str) -> Gpus:
    return _understood(parse_gpus, text)


def _gres(text: str) -> Gpus:
    return _understood(parse_gres, text)


def _memory(text: str) -> str:
    return _understood(check_memory, text)


def _understood(read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
