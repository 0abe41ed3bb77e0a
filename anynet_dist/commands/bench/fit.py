"""The largest batch for training a network that fits into this device's memory.

`anynet bench fit NAME_OR_CONFIG` tries batches on a GPU; on a CPU it takes the estimate of
`anynet models show` and 90 % of the memory that is free.
"""

from __future__ import annotations

import argparse

from anynet_dist.commands.bench.options import add_json_option, check_json_option, count
from anynet_dist.config.arguments import add_allow_plugins

COLUMNS = {
    "precision": "precision",
    "batch": "largest batch",
    "memory_gib": "memory (GiB)",
    "free_gib": "free (GiB)",
    "how": "how",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `anynet bench fit`."""
    parser.add_argument("model", metavar="NAME_OR_CONFIG", help="a preset, or a config file (YAML)")
    parser.add_argument("--res", type=count, help="side of the images (default: the network's own)")
    parser.add_argument("--classes", type=count, help="classes (default: the config's, or 1000)")
    parser.add_argument(
        "--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"], help="default: both"
    )
    parser.add_argument(
        "--memory-format", choices=("contiguous", "channels_last"), default="channels_last", help="on a GPU"
    )
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    add_json_option(parser)
    add_allow_plugins(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out `anynet bench fit`; raises UserError."""
    from anynet_dist.bench.environment import bench_environment, choose_device, device_name
    from anynet_dist.bench.fit import check_fits, fit_on_cpu, fit_on_gpu
    from anynet_dist.bench.results import show
    from anynet_dist.commands.models import CLASSES, described_network
    from anynet_dist.models import check_resolution, network_spec

    check_json_option(args.json)
    device = choose_device(args.cpu, None)
    described = described_network(args.model, args.allow_plugins)
    classes = args.classes or described.model.get("num_classes") or CLASSES
    model, resolution = {**described.model, "num_classes": classes}, args.res or described.resolution
    check_resolution(network_spec(**model), resolution)
    precisions = tuple(args.precision)
    if device.type == "cuda":
        rows = fit_on_gpu(model, resolution, precisions, args.memory_format, device)
    else:
        rows = fit_on_cpu(model, resolution, precisions, described.optimizer)
    check_fits(rows)
    title = f"training {args.model}, {resolution} px, {device_name(device)}"
    facts: dict[str, object] = {"subject": "fit", "title": title, "model": model}
    facts |= {"resolution": resolution, "notes": []}
    show(rows, COLUMNS, facts | {"environment": bench_environment(device)}, args.json)
