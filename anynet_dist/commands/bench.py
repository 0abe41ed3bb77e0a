"""Measure on this machine what the README claims, or compute what many GPUs need."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `anynet bench`."""
    subjects = parser.add_subparsers(dest="subject", required=True, metavar="SUBJECT")
    _configure_loader(subjects)
    _configure_scaling(subjects)


def _configure_loader(subjects: Any) -> None:
    loader = subjects.add_parser("loader", help="FFCV against torchvision's loaders on the same images")
    images = loader.add_mutually_exclusive_group(required=True)
    images.add_argument("--root", type=Path, help="images: CLASS/IMAGE, or a folder with train/ in it")
    images.add_argument("--cifar", type=Path, help="CIFAR-10's folder: small images, also the device loader")
    loader.add_argument(
        "--beton",
        type=Path,
        help="a .beton file of the images of --root (default: write raw, proportion and jpg; --startup: raw)",
    )
    loader.add_argument("--res", type=int, help="training resolution (default: 224; --cifar: 32)")
    loader.add_argument("--batch", type=int, help="images per batch (default: 64; --cifar: 512)")
    loader.add_argument(
        "--repeats", type=int, default=5, help="timed epochs of each loader (default: %(default)s)"
    )
    loader.add_argument("--workers", type=int, help="threads or processes (default: all usable cores)")
    loader.add_argument("--bare", action="store_true", help="measure FFCV without our wrapper too")
    loader.add_argument(
        "--startup", action="store_true", help="measure seconds to the first batch in fresh processes instead"
    )
    loader.add_argument(
        "--max-resolution",
        type=int,
        default=500,
        help="longer side in the .beton files (default: %(default)s)",
    )


def _configure_scaling(subjects: Any) -> None:
    scaling = subjects.add_parser(
        "scaling", help="what many GPUs ask of loaders, disks and networks, from figures of one"
    )
    network = scaling.add_mutually_exclusive_group(required=True)
    network.add_argument("--model", help="a network by name, such as resnet50")
    network.add_argument("--parameters", type=float, help="or its number of parameters")
    shown = "(default: %(default)s)"
    number: dict[str, Any] = {"type": float, "metavar": "NUMBER"}
    scaling.add_argument(
        "--images-per-second", required=True, help="training speed of one GPU alone", **number
    )
    scaling.add_argument(
        "--gpus", type=int, nargs="+", default=[1, 8, 64], metavar="COUNT", help=f"a column each {shown}"
    )
    scaling.add_argument("--gpus-per-node", type=int, default=8, help=f"GPUs per machine {shown}")
    scaling.add_argument("--device-batch", type=int, default=128, help=f"images per GPU at a time {shown}")
    scaling.add_argument("--images", type=int, default=1_281_167, help=f"training images {shown}")
    scaling.add_argument("--image-kb", default=280, help=f"size of a stored image, kB {shown}", **number)
    scaling.add_argument(
        "--loader-per-core",
        default=879,
        help=f"images/s loaded per core {shown}; see docs/data.md",
        **number,
    )
    scaling.add_argument("--cores-per-node", type=int, default=64, help=f"cores per machine {shown}")
    scaling.add_argument(
        "--cache-gib", default=400, help=f"memory for the page cache per machine {shown}", **number
    )
    scaling.add_argument(
        "--disk-mb-s",
        default=2000,
        help=f"MB/s read per machine while the others read too {shown}",
        **number,
    )
    scaling.add_argument(
        "--link-gb-s", default=100, help=f"bus bandwidth among the GPUs of a machine, GB/s {shown}", **number
    )
    scaling.add_argument(
        "--network-gbit-s", default=100, help=f"network per machine, Gbit/s {shown}", **number
    )


def run(args: argparse.Namespace) -> None:
    """Carry out `anynet bench SUBJECT`; raises UserError."""
    {"loader": _bench_loader, "scaling": _show_scaling}[args.subject](args)


def _show_scaling(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from anynet_dist.bench.scaling import Cluster, needs_by_size, scaling_lines

    cluster = Cluster(
        gpus=args.gpus[0],
        gpus_per_node=args.gpus_per_node,
        images_per_second=args.images_per_second,
        device_batch=args.device_batch,
        parameters=int(args.parameters) if args.parameters else _parameters(args.model),
        images=args.images,
        image_bytes=1000 * args.image_kb,
        loader_per_core=args.loader_per_core,
        cores_per_node=args.cores_per_node,
        cache_bytes=args.cache_gib * 2**30,
        disk_bytes_s=1e6 * args.disk_mb_s,
        link_bytes_s=1e9 * args.link_gb_s,
        network_bytes_s=1e9 / 8 * args.network_gbit_s,
    )
    table = Table("GPUs", *map(str, args.gpus), box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, values in scaling_lines(needs_by_size(cluster, args.gpus)):
        table.add_row(name, *values)
    Console().print(table)


def _parameters(model: str) -> int:
    from anynet_dist.models.complexity import network_complexity
    from anynet_dist.models.vocabulary import network_spec

    return network_complexity(network_spec(preset=model, num_classes=1000)).params


def _bench_loader(args: argparse.Namespace) -> None:
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
