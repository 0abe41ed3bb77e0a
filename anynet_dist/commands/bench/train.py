"""How fast a config trains, what of it the loader and the trainer take, and what each option gives.

`anynet bench train CONFIG [overrides]` trains in the way of `anynet train`, with the config's loader and with
one batch again and again, and runs a bare loop over the same network and batches beside it: all in turn, each
in a process of its own. `--compare 'train.precision=fp32'` adds the trainer with that option changed; several
changes at a time are separated by spaces.
"""

from __future__ import annotations

import argparse

from anynet_dist.commands.bench.options import add_json_option, add_pacing, check_json_option
from anynet_dist.config.arguments import add_config_arguments
from anynet_dist.system.errors import UserError

COLUMNS = {
    "what": "",
    "batches": "batches",
    "images_per_second": "images/s",
    "ratio": "ratio",
    "images_per_cpu_second": "images\nper CPU-s",
    "cpu_ratio": "ratio",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `anynet bench train`."""
    add_config_arguments(parser, "[--compare CHANGES ...] [--batches KIND ...]")
    parser.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="CHANGES",
        help="options changed, such as train.compile=full",
    )
    parser.add_argument(
        "--batches",
        nargs="+",
        choices=("loader", "synthetic"),
        default=["loader", "synthetic"],
        help="where batches come from (default: both)",
    )
    parser.add_argument("--no-bare", action="store_true", help="leave out the bare loop")
    add_pacing(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out `anynet bench train`; raises UserError."""
    from anynet_dist.bench.environment import bench_environment, choose_device, device_name
    from anynet_dist.bench.paced import Pacing
    from anynet_dist.bench.results import show
    from anynet_dist.bench.train import bench_train, overhead
    from anynet_dist.config import load_config

    check_json_option(args.json)
    config = load_config(args.config, args.overrides).config
    changed = {
        changes: load_config(args.config, [*args.overrides, *_overrides(changes)]).config
        for changes in args.compare
    }
    pacing = Pacing(rounds=args.rounds, steps=args.steps, warm_up=args.warm_up, threads=args.threads)
    rows = bench_train(config, changed, tuple(args.batches), not args.no_bare, pacing)
    notes = [
        f"{batches} batches: the trainer takes {share:+.1%} processor time beside the bare loop"
        for batches in args.batches
        if (share := overhead(rows, batches)) is not None
    ]
    device = choose_device(config.run.cpu, args.threads)
    batch = config.train.global_batch
    title = f"{args.config}, batch {batch}, {device_name(device)}; {args.rounds} rounds of {args.steps} steps"
    facts = {"subject": "train", "title": title, "config": args.config, "overrides": args.overrides}
    facts |= {"pacing": vars(pacing), "batch": batch, "notes": notes}
    facts |= {"environment": bench_environment(device)}
    show(rows, COLUMNS, facts, args.json)


def _overrides(changes: str) -> list[str]:
    """`a.b=1 c.d=2` as overrides of a command line."""
    words = []
    for change in changes.split():
        key, equals, value = change.partition("=")
        if not equals:
            raise UserError(f"--compare takes OPTION=VALUE, such as train.compile=full, not '{change}'")
        words += [f"--{key}", value]
    return words
