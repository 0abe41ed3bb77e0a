"""How long saving a checkpoint keeps training waiting, in the background and otherwise.

`anynet bench checkpoint --model NAME_OR_CONFIG` saves network, optimizer state and, with `--ema`, the moving
average, in both ways in turn: how long a step waits, in wall time and in processor time of the thread that
trains, and how long it takes until the checkpoint counts.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from anynet_dist.commands.bench.options import add_device_options, add_json_option, check_json_option, count
from anynet_dist.config.arguments import add_allow_plugins

COLUMNS = {
    "way": "saving",
    "block_ms": "steps wait\n(ms)",
    "block_ratio": "ratio",
    "block_cpu_ms": "CPU\n(ms)",
    "block_cpu_ratio": "ratio",
    "total_ms": "until it\ncounts (ms)",
    "total_cpu_ms": "CPU of all\nthreads (ms)",
    "megabytes": "MB",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `anynet bench checkpoint`."""
    parser.add_argument("--model", required=True, metavar="NAME_OR_CONFIG", help="a preset, or a config file")
    parser.add_argument("--ema", action="store_true", help="save a moving average too")
    parser.add_argument("--rounds", type=count, default=10, help="timed rounds (default: %(default)s)")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="a folder on the disk to measure, left as it was (default: %(default)s)",
    )
    add_device_options(parser)
    add_json_option(parser)
    add_allow_plugins(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out `anynet bench checkpoint`; raises UserError."""
    from anynet_dist.bench.checkpoint import CheckpointSetting, bench_checkpoint
    from anynet_dist.bench.environment import bench_environment, choose_device, device_name
    from anynet_dist.bench.results import show
    from anynet_dist.commands.models import CLASSES, described_network
    from anynet_dist.system.errors import UserError

    check_json_option(args.json)
    if not args.folder.is_dir():
        raise UserError(f"--folder {args.folder} is not a folder: name one on the disk to measure")
    device = choose_device(args.cpu, args.threads)
    described = described_network(args.model, args.allow_plugins)
    classes = described.model.get("num_classes") or CLASSES
    setting = CheckpointSetting(
        model={**described.model, "num_classes": classes},
        ema=args.ema,
        folder=args.folder,
        rounds=args.rounds,
    )
    rows = bench_checkpoint(setting, device)
    held = "weights, moving average and optimizer state" if args.ema else "weights and optimizer state"
    title = f"{args.model}: {held}; {device_name(device)}; medians of {setting.rounds} rounds"
    notes = ["CPU: of the thread that trains; ratios: to the first row"]
    facts = {"subject": "checkpoint", "name": args.model, "title": title, "ema": args.ema}
    facts |= {"rounds": setting.rounds, "notes": notes, "environment": bench_environment(device)}
    show(rows, COLUMNS, facts, args.json)
