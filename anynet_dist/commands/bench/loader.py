"""FFCV against torchvision's loaders on the same images."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `anynet bench loader`."""
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--root", type=Path, help="images: CLASS/IMAGE, or a folder with train/ in it")
    images.add_argument("--cifar", type=Path, help="CIFAR-10's folder: small images, also the device loader")
    parser.add_argument(
        "--beton",
        type=Path,
        help="a .beton file of the images of --root (default: write raw, proportion and jpg; --startup: raw)",
    )
    parser.add_argument("--res", type=int, help="training resolution (default: 224; --cifar: 32)")
    parser.add_argument("--batch", type=int, help="images per batch (default: 64; --cifar: 512)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed epochs of each loader (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, help="threads or processes (default: all usable cores)")
    parser.add_argument("--bare", action="store_true", help="measure FFCV without our wrapper too")
    parser.add_argument(
        "--startup", action="store_true", help="measure seconds to the first batch in fresh processes instead"
    )
    parser.add_argument(
        "--max-resolution",
        type=int,
        default=500,
        help="longer side in the .beton files (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Carry out `anynet bench loader`; raises UserError."""
    from rich.console import Console

    from anynet_dist.bench.loaders import bench_loaders, bench_small, bench_startup, table_of
    from anynet_dist.bench.subjects import Setting
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
        small=small,
        max_resolution=args.max_resolution,
    )
    if args.startup:
        Console().print(bench_startup(setting))
        return
    results = bench_small(setting) if small else bench_loaders(setting)
    Console().print(table_of(setting, results))
