"""What many GPUs ask of loaders, disks and networks, from figures of one."""

from __future__ import annotations

import argparse
from typing import Any


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `anynet bench scaling`."""
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--model", help="a network by name, such as resnet50")
    network.add_argument("--parameters", type=float, help="or its number of parameters")
    shown = "(default: %(default)s)"
    number: dict[str, Any] = {"type": float, "metavar": "NUMBER"}
    parser.add_argument(
        "--images-per-second", required=True, help="training speed of one GPU alone", **number
    )
    parser.add_argument(
        "--gpus", type=int, nargs="+", default=[1, 8, 64], metavar="COUNT", help=f"a column each {shown}"
    )
    parser.add_argument("--gpus-per-node", type=int, default=8, help=f"GPUs per machine {shown}")
    parser.add_argument("--device-batch", type=int, default=128, help=f"images per GPU at a time {shown}")
    parser.add_argument("--images", type=int, default=1_281_167, help=f"training images {shown}")
    parser.add_argument("--image-kb", default=280, help=f"size of a stored image, kB {shown}", **number)
    parser.add_argument(
        "--loader-per-core",
        default=879,
        help=f"images/s loaded per core {shown}; see docs/data.md",
        **number,
    )
    parser.add_argument("--cores-per-node", type=int, default=64, help=f"cores per machine {shown}")
    parser.add_argument(
        "--cache-gib", default=400, help=f"memory for the page cache per machine {shown}", **number
    )
    parser.add_argument(
        "--disk-mb-s",
        default=2000,
        help=f"MB/s read per machine while the others read too {shown}",
        **number,
    )
    parser.add_argument(
        "--link-gb-s", default=100, help=f"bus bandwidth among the GPUs of a machine, GB/s {shown}", **number
    )
    parser.add_argument(
        "--network-gbit-s", default=100, help=f"network per machine, Gbit/s {shown}", **number
    )


def run(args: argparse.Namespace) -> None:
    """Carry out `anynet bench scaling`; raises UserError."""
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
