"""`anynet bench`: measure on this machine what the README claims."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `anynet bench`."""
    subjects = parser.add_subparsers(dest="subject", required=True, metavar="SUBJECT")
    loader = subjects.add_parser("loader", help="FFCV against torchvision's loaders on the same images")
    loader.add_argument(
        "--root", type=Path, required=True, help="images: CLASS/IMAGE, or a folder with train/ in it"
    )
    loader.add_argument(
        "--beton", type=Path, help="a .beton file of the same images (default: write raw and jpg)"
    )
    loader.add_argument("--res", type=int, default=224, help="training resolution (default: %(default)s)")
    loader.add_argument("--batch", type=int, default=64, help="images a batch (default: %(default)s)")
    loader.add_argument(
        "--repeats", type=int, default=5, help="timed epochs of each loader (default: %(default)s)"
    )
    loader.add_argument("--workers", type=int, help="threads or processes (default: all usable cores)")
    loader.add_argument(
        "--max-resolution",
        type=int,
        default=500,
        help="longer side in the .beton files (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Carry out `anynet bench SUBJECT`; raises UserError."""
    from rich.console import Console

    from anynet_dist.data.loader_bench import Setting, bench_loaders, table_of

    setting = Setting(
        root=args.root,
        beton=args.beton,
        resolution=args.res,
        batch_size=args.batch,
        repeats=args.repeats,
        workers=args.workers,
        max_resolution=args.max_resolution,
    )
    Console().print(table_of(setting, bench_loaders(setting)))
