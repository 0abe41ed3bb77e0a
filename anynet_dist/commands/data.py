"""`anynet data`: build .beton files, look at them and verify them."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from anynet_dist.data.beton import Sidecar

SOURCES = ("digits", "cifar10", "imagefolder", "imagenet")
WRITE_MODES = ("raw", "jpg", "proportion")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `anynet data`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _configure_build(actions.add_parser("build", help="write train.beton and val.beton from images"))
    inspect = actions.add_parser("inspect", help="print what a .beton file holds and verify it")
    inspect.add_argument("file", type=Path, help="the .beton file")


def _configure_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", choices=SOURCES, help="where the images come from; digits are embedded")
    parser.add_argument("--out", type=Path, required=True, help="folder for train.beton and val.beton")
    parser.add_argument("--root", type=Path, help="folder of the images (train/CLASS/IMAGE, val/ or test/)")
    parser.add_argument(
        "--download", action="store_true", help="cifar10: fetch it into --root when it is not there"
    )
    parser.add_argument(
        "--write-mode",
        choices=WRITE_MODES,
        default="raw",
        help="raw: pixels, fastest; jpg: smallest; proportion: a part as JPEG (default: %(default)s)",
    )
    parser.add_argument("--max-resolution", type=int, metavar="N", help="make longer sides N pixels at most")
    parser.add_argument("--quality", type=int, default=90, help="JPEG quality (default: %(default)s)")
    parser.add_argument(
        "--compress-probability",
        type=float,
        default=0.5,
        metavar="P",
        help="with proportion: share of images stored as JPEG (default: %(default)s)",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: all usable cores)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of digits' split and of proportion (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    """Carry out `anynet data ACTION`; raises UserError."""
    if args.action == "build":
        _build(args)
    else:
        _inspect(args.file)


def _build(args: argparse.Namespace) -> None:
    from rich.console import Console

    from anynet_dist.data.beton import build_source
    from anynet_dist.data.beton_writer import WriteOptions
    from anynet_dist.data.sources import load_source

    options = WriteOptions(
        write_mode=args.write_mode,
        max_resolution=args.max_resolution,
        quality=args.quality,
        compress_probability=args.compress_probability,
        seed=args.seed,
    )
    with _tidy_when_terminated():
        source = load_source(args.source, args.root, allow_download=args.download, seed=args.seed)
        sidecars = build_source(source, args.out, options, workers=args.workers)
    for split, sidecar in sidecars.items():
        Console().print(_describe(args.out / f"{split}.beton", sidecar))


@contextmanager
def _tidy_when_terminated() -> Iterator[None]:
    """SIGTERM ends the block as an exception does, so that temporary files are removed on the way out."""

    def stop(signum: int, frame: object) -> None:
        sys.exit(128 + signum)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _inspect(path: Path) -> None:
    from rich.console import Console

    from anynet_dist.data.beton import verify_beton

    console = Console()
    console.print(_describe(path, verify_beton(path)))
    console.print("tables and checksum are right")


def _describe(path: Path, sidecar: Sidecar) -> Table:
    from rich.table import Table

    table = Table("", str(path), title_justify="left")
    for name, value in _rows(sidecar):
        table.add_row(name, value)
    return table


def _rows(sidecar: Sidecar) -> list[tuple[str, str]]:
    names = ", ".join(sidecar.classes[:10]) + (", ..." if len(sidecar.classes) > 10 else "")
    counts = sidecar.class_counts
    height, width = sidecar.image_shape or sidecar.max_shape
    mode = sidecar.write_mode
    if mode == "proportion":
        mode += f", {sidecar.compress_probability:.0%} as JPEG"
    if sidecar.write_mode != "raw":
        mode += f", quality {sidecar.quality}"
    return [
        ("source", f"{sidecar.source}, {sidecar.split}"),
        ("images", f"{sidecar.num_samples:,}"),
        ("classes", f"{len(sidecar.classes)} ({names}), {min(counts):,} to {max(counts):,} images each"),
        ("size of images", f"{'' if sidecar.image_shape else 'up to '}{width}x{height} pixels"),
        ("mean (RGB, 0..1)", ", ".join(f"{value:.4f}" for value in sidecar.mean)),
        ("std (RGB, 0..1)", ", ".join(f"{value:.4f}" for value in sidecar.std)),
        (
            "written",
            mode + (f", longer side at most {sidecar.max_resolution}" if sidecar.max_resolution else ""),
        ),
        ("FFCV when built", sidecar.ffcv_version or "not installed"),
        ("size", f"{sidecar.size / 2**20:,.1f} MiB"),
        ("sha256", sidecar.sha256),
    ]
