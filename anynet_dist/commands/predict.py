"""Name the classes of images.

`anynet predict RUN_OR_FILE IMAGE...` prints the most probable classes of JPEG, PNG and other image files, and
of all images below a folder, prepared as for evaluation: resized and cropped at the centre to the resolution
of evaluation, and normalised. An image that cannot be read is named and skipped; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from anynet_dist.config.arguments import add_allow_plugins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anynet_dist.inference.predict import Prediction

UNLIMITED = 10_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the network, the images and how to print."""
    parser.add_argument(
        "path",
        metavar="RUN_OR_FILE",
        help="a run folder, a checkpoint folder, a Hub folder or a model.safetensors",
    )
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image files, or folders of them")
    parser.add_argument(
        "--top", type=int, default=5, metavar="K", help="classes of each image (default: %(default)s)"
    )
    parser.add_argument(
        "--weights",
        choices=("auto", "raw", "ema"),
        default="auto",
        help="of a checkpoint: its weights, or their moving average, which auto takes where there is one",
    )
    add_allow_plugins(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON list with one object an image")


def run(args: argparse.Namespace) -> None:
    """Predict, print, and exit with 1 if an image was skipped."""
    from anynet_dist.inference.predict import predict

    predictions = []
    for prediction in predict(args.path, args.images, args.top, args.weights, args.allow_plugins):
        predictions.append(prediction)
        if prediction.error is not None:
            print(f"skipped {prediction.image}: {prediction.error}", file=sys.stderr)
    if args.json:
        _print_json(predictions)
    else:
        _print_table([prediction for prediction in predictions if prediction.error is None])
    if any(prediction.error is not None for prediction in predictions):
        sys.stdout.flush()
        sys.exit(1)


def _print_json(predictions: Sequence[Prediction]) -> None:
    import json
    from dataclasses import asdict

    entries = [
        {"image": prediction.image, "error": prediction.error}
        if prediction.error is not None
        else {"image": prediction.image, "predictions": [asdict(guess) for guess in prediction.guesses]}
        for prediction in predictions
    ]
    print(json.dumps(entries, indent=2))


def _print_table(predictions: Sequence[Prediction]) -> None:
    if not predictions:
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("image", "class", "probability")
    for column in table.columns:
        column.overflow = "fold"  # a name cut short would be none
    table.columns[2].justify = "right"
    for prediction in predictions:
        names = (prediction.image, *("" for _ in prediction.guesses))
        for name, guess in zip(names, prediction.guesses, strict=False):
            table.add_row(Text(name), Text(guess.name), f"{guess.probability:.2%}")
        table.add_section()
    Console(width=None if sys.stdout.isatty() else UNLIMITED).print(table)
