"""`anynet bench`: measure on this machine what the README claims."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `anynet bench`."""
    subjects = parser.add_subparsers(dest="subject", required=True, metavar="SUBJECT")
    loader = subjects.add_parser("loader", help="FFCV against torchvision's loaders on the same images")
    images = loader.add_mutually_exclusive_group(required=True)
    images.add_argument("--root", type=Path, help="images: CLASS/IMAGE, or a folder with train/ in it")
    images.add_argument("--cifar", type=Path, help="CIFAR-10's folder: small images, also the device loader")
    loader.add_argument(
        "--beton",
        type=Path,
        help="a .beton file of the images of --root (default: write raw, proportion and jpg)",
    )
    loader.add_argument("--res", type=int, help="training resolution (default: 224; --cifar: 32)")
    loader.add_argument("--batch", type=int, help="images a batch (default: 64; --cifar: 512)")
    loader.add_argument(
        "--repeats", type=int, default=5, help="timed epochs of each loader (default: %(default)s)"
    )
    loader.add_argument("--workers", type=int, help="threads or processes (default: all usable cores)")
    loader.add_argument("--bare", action="store_true", help="measure FFCV without our wrapper too")
    loader.add_argument(
        "--max-resolution",
        type=int,
        default=500,
        help="longer side in the .beton files (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Carry out `anynet bench SUBJECT`; raises UserError."""
    from rich.console import Console

    from anynet_dist.data.loader_bench import Setting, bench_loaders, bench_small, table_of
    from anynet_dist.system.errors import UserError

    small = args.cifar is not None
    if small and args.beton:
        raise UserError("--beton goes with --root; --cifar writes its own file")
    setting = Setting(
        root=args.cifar if small else args.root,
        beton=args.beton,
        resolution=args.res or (32 if small else 224),
        batch_size=args.batch or (512 if small else 64),
        repeats=args.repeats,
        workers=args.workers,
        bare=args.bare,
        max_resolution=args.max_resolution,
    )
    results = bench_small(setting) if small else bench_loaders(setting)
    Console().print(table_of(setting, results))
