"""Evaluate a trained network on a split of its data.

`anynet eval RUN_OR_CHECKPOINT` prints the accuracy that the training run reported, for any number of
processes: each image is counted exactly once. Options of the run's config can be overridden, for example
`--data.test other.beton` or `--data.loader torch`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from anynet_dist.config.arguments import add_allow_plugins

if TYPE_CHECKING:
    from anynet_dist.training.classification import ClassScores
    from anynet_dist.training.task import Scores


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the run, the split and the weights; other words override the run's config."""
    parser.add_argument(
        "path", metavar="RUN_OR_CHECKPOINT", help="a run folder, or a checkpoint folder in it"
    )
    parser.add_argument(
        "--split",
        choices=("test", "val", "train"),
        help="default: test, or val where the run has no test images",
    )
    parser.add_argument(
        "--weights",
        choices=("auto", "raw", "ema"),
        default="auto",
        help="of a checkpoint: its weights, or their moving average, which auto takes where there is one",
    )
    add_allow_plugins(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--per-class", action="store_true", help="print the accuracy of each class, too")
    parser.set_defaults(overrides=[])


def run(args: argparse.Namespace) -> None:
    """Evaluate and print the scores on rank 0."""
    from anynet_dist.system.distributed import check_launcher, is_main
    from anynet_dist.system.logging import setup_logging

    check_launcher()
    setup_logging("quiet" if args.json else "info")
    from anynet_dist.runs.metrics_log import finite
    from anynet_dist.training.evaluate_run import default_split, evaluate_run

    split = args.split or default_split(args.path, args.overrides)
    scores = evaluate_run(args.path, split, args.weights, args.overrides, args.allow_plugins)
    if not is_main():
        return
    if args.json:
        import json

        print(json.dumps({"split": split, **finite(scores.record(""))}))
    else:
        print("\n".join(_lines(scores, split, args.per_class)))


def _lines(scores: Scores, split: str, per_class: bool) -> Iterator[str]:
    from anynet_dist.training.classification import ClassificationScores

    if not isinstance(scores, ClassificationScores):
        yield f"{split}: " + ", ".join(f"{name} {value:,.4g}" for name, value in scores.record("").items())
        return
    yield (
        f"{split}: top-1 {scores.top1:.2%}, top-5 {scores.top5:.2%},"
        f" loss {scores.loss:.4f} on {scores.count:,} images"
    )
    if scores.classes is not None:
        yield from _class_lines(scores.classes, per_class)


def _class_lines(found: ClassScores, each: bool) -> Iterator[str]:
    yield (
        f"balanced top-1 {found.balanced_top1:.2%}; {len(found.predicted_classes)} of {len(found.top1)}"
        f" classes predicted; the largest class has {found.largest_share:.2%} of the images"
    )
    if each:
        width = max(map(len, found.names), default=0)
        for number, (accuracy, images) in enumerate(zip(found.top1, found.images, strict=True)):
            name = found.names[number] if number < len(found.names) else f"class {number}"
            shown = "   none" if accuracy is None else f"{accuracy:7.2%}"
            yield f"  {name:{width}}  {shown} of {images:,}"
