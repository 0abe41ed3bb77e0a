"""Our trainer against timm's, Lightning's and torchvision's: same network, images, batch and steps.

`anynet bench peers CONFIG [overrides]` trains from end to end, loader included, all in turn, each in a
process of its own. timm: its train script's parts, in our precision with channels_last, and with the script's
defaults. Lightning: a Trainer around a module like the design document's, as published, and in bf16 where
that is our precision. torchvision: its reference script for classification. The last columns say how many
times as fast ours is. Libraries that are not installed are left out.
"""

from __future__ import annotations

import argparse

from anynet_dist.commands.bench.options import add_json_option, add_pacing, check_json_option, count
from anynet_dist.config.arguments import add_config_arguments

LIBRARIES = ("timm", "lightning", "torchvision")
COLUMNS = {
    "trainer": "trainer",
    "images_per_second": "images/s",
    "ahead_ratio": "anynet:\nahead by",
    "images_per_cpu_second": "images\nper CPU-s",
    "cpu_ahead_ratio": "anynet:\nahead by",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `anynet bench peers`."""
    add_config_arguments(parser, "[--peers LIBRARY ...]")
    parser.add_argument(
        "--peers", nargs="+", choices=LIBRARIES, default=list(LIBRARIES), help="default: all of them"
    )
    parser.add_argument(
        "--workers", type=count, help="loader processes of the others (default: all usable cores)"
    )
    add_pacing(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out `anynet bench peers`; raises UserError."""
    from anynet_dist.bench.against_peers import bench_peers, setting_facts
    from anynet_dist.bench.environment import bench_environment, choose_device, device_name
    from anynet_dist.bench.paced import Pacing
    from anynet_dist.bench.results import show
    from anynet_dist.config import load_config

    check_json_option(args.json)
    config = load_config(args.config, args.overrides).config
    pacing = Pacing(rounds=args.rounds, steps=args.steps, warm_up=args.warm_up, threads=args.threads)
    rows, notes = bench_peers(config, args.peers, args.workers, pacing)
    device = choose_device(config.run.cpu, args.threads)
    batch = config.train.global_batch
    title = f"{args.config}, batch {batch}, {device_name(device)}; {args.rounds} rounds of {args.steps} steps"
    facts = {"subject": "peers", "title": title, "config": args.config, "overrides": args.overrides}
    facts |= {"pacing": vars(pacing), "setting": setting_facts(config), "notes": notes}
    show(rows, COLUMNS, facts | {"environment": bench_environment(device)}, args.json)
