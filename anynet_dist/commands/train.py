"""Train a network.

`anynet train CONFIG [overrides]` trains in this process; on several devices or machines the same words
follow a launcher: `accelerate launch -m anynet_dist train CONFIG [overrides]`, or torchrun.
"""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anynet_dist.config.arguments import add_config_arguments
from anynet_dist.system.errors import UserError

if TYPE_CHECKING:
    from anynet_dist.config import Config


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the config and its overrides."""
    add_config_arguments(parser, "[--dry-run [--world-size N] | --fast-dev-run]")
    only = parser.add_argument_group("before training").add_mutually_exclusive_group()
    only.add_argument(
        "--dry-run", action="store_true", help="check everything and show it; train and write nothing"
    )
    only.add_argument(
        "--fast-dev-run",
        action="store_true",
        help="two steps or batches of everything, in a run folder of its own, NAME-dev, without trackers",
    )
    parser.add_argument(
        "--world-size", type=int, metavar="N", help="with --dry-run: plan for so many processes"
    )


def run(args: argparse.Namespace) -> None:
    """Train, then say what came out and what to type next."""
    from anynet_dist.config import load_config
    from anynet_dist.config.errors import located
    from anynet_dist.system.distributed import check_launcher
    from anynet_dist.system.logging import setup_logging
    from anynet_dist.system.output import tolerate_lost_output

    tolerate_lost_output()
    check_launcher()
    setup_logging()
    loaded = load_config(args.config, args.overrides)
    config = loaded.config
    setup_logging(config.log.level, json=config.log.format == "json")
    if config.run.name is None:
        config = replace(config, run=replace(config.run, name=loaded.path.stem))
    if args.world_size is not None and not args.dry_run:
        raise UserError("--world-size goes with --dry-run only: a launcher decides how many processes train")
    with located(loaded.sources):
        if args.dry_run:
            _dry_run(config, args.world_size)
        elif args.fast_dev_run:
            _fast_dev_run(config)
        else:
            _train(config)


def _dry_run(config: Config, world_size: int | None) -> None:
    from anynet_dist.system.distributed import is_main
    from anynet_dist.system.json_lines import result_text
    from anynet_dist.training.dry_run import dry_run, dry_run_text

    planned = dry_run(config, world_size)
    if is_main():
        print(result_text(dry_run_text(planned), **planned.facts()))


def _fast_dev_run(config: Config) -> None:
    from anynet_dist.system.distributed import is_main
    from anynet_dist.system.json_lines import result_text
    from anynet_dist.training.dev_run import DevTrainer

    trainer = DevTrainer(config)
    result = trainer.fit()
    if is_main():
        print(result_text(f"all parts work: {', '.join(trainer.parts)} (run folder: {result['run']})"))


def _train(config: Config) -> None:
    from anynet_dist.data.workers import start_server
    from anynet_dist.system.distributed import is_main
    from anynet_dist.system.json_lines import result_text

    data = config.data
    if data.loader == "torch" or (data.loader == "auto" and Path(str(data.train)).is_dir()):
        start_server()  # it imports torch while this process does

    from anynet_dist.system.startup_clock import clock

    clock.done("command line and config")

    from anynet_dist.runs.metrics_log import finite
    from anynet_dist.training.trainer import Trainer

    clock.done("imports of torch and the rest")
    result = Trainer(config).fit()
    if is_main():
        summary = _summary(result, config)
        print(result_text(summary, **finite(result)))


def _summary(result: dict[str, Any], config: Config) -> str:
    from anynet_dist.training.tasks import TASKS

    lines, task = [], TASKS.find(config.train.task)
    if f"test/{task.metric}" in result:
        score = result.get(f"test/ema_{task.metric}", result[f"test/{task.metric}"])
        lines.append(f"test {task.metric_label} {score:.2%} (network of epoch {result['epoch']})")
    lines += [f"run folder: {result['run']}", f"next: {_next(result['run'], config)}"]
    return "\n".join(lines)


def _next(run: str, config: Config) -> str:
    """The command that evaluates what was trained, as it works in the user's shell."""
    from anynet_dist.system.install import program

    held_out = config.data.test or config.data.val or config.data.val_fraction
    options = ["--allow-plugins"] if config.plugins else []
    options += [] if held_out else ["--split", "train"]
    return " ".join([program("anynet"), "eval", *map(shlex.quote, [run, *options])])
