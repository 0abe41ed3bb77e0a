"""A network's step in each way to run it: pass, precision, memory format, compiled or not.

`anynet bench model NAME_OR_CONFIG` measures steps on random images, all variants in turn in one process:
images a second of wall and of processor time, model FLOP/s utilisation (MFU), and the share of the line
that the memory's bandwidth draws for operations that are not fused.
"""

from __future__ import annotations

import argparse
from typing import Any

from anynet_dist.bench.results import show
from anynet_dist.commands.bench.options import add_device_options, add_json_option, check_json_option, count
from anynet_dist.config.arguments import add_allow_plugins

COMPILE = ("off", "regional", "full", "reduce-overhead", "max-autotune")
COLUMNS = {
    "work": "pass",
    "network": "network",
    "compile": "compile",
    "memory_format": "memory\nformat",
    "precision": "precision",
    "images_per_second": "images/s",
    "ratio": "ratio",
    "images_per_cpu_second": "images\nper CPU-s",
    "cpu_ratio": "ratio",
    "mfu": "MFU",
    "bandwidth_share": "bandwidth\nline",
    "peak_memory_gib": "peak\nGiB",
    "first_step_seconds": "first\nstep (s)",
}
GPU, CPU = {"batch": 128, "steps": 20}, {"batch": 16, "steps": 1}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `anynet bench model`."""
    parser.add_argument("model", metavar="NAME_OR_CONFIG", help="a preset, or a config file (YAML)")
    parser.add_argument("--res", type=count, help="side of the images (default: the network's own)")
    parser.add_argument(
        "--batch", type=count, help=f"images in a step (default: {GPU['batch']}, {CPU['batch']} on a CPU)"
    )
    parser.add_argument("--classes", type=count, help="classes (default: the config's, or 1000)")
    parser.add_argument("--pass", dest="passes", nargs="+", choices=("forward", "train"), default=["train"])
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=("fp32", "bf16"),
        help="default: fp32, and bf16 where the device computes in it",
    )
    parser.add_argument(
        "--memory-format",
        nargs="+",
        choices=("contiguous", "channels_last"),
        default=["contiguous", "channels_last"],
        help="default: both",
    )
    parser.add_argument(
        "--compile", nargs="+", choices=COMPILE, default=["off"], help="as train.compile (default: off)"
    )
    parser.add_argument(
        "--peer",
        nargs="+",
        choices=("timm", "torchvision"),
        default=[],
        help="also this library's network of the same name, in the same step",
    )
    parser.add_argument("--rounds", type=count, default=5, help="timed rounds (default: %(default)s)")
    parser.add_argument(
        "--steps", type=count, help=f"steps in a round (default: {GPU['steps']}, {CPU['steps']} on a CPU)"
    )
    add_device_options(parser)
    add_json_option(parser)
    add_allow_plugins(parser)


def run(args: argparse.Namespace) -> None:
    """Carry out `anynet bench model`; raises UserError."""

    from anynet_dist.bench.environment import bench_environment, choose_device, device_name
    from anynet_dist.bench.model import ModelSetting, bench_model
    from anynet_dist.commands.models import CLASSES, described_network
    from anynet_dist.training.distributed.accelerator import computes_in_bf16

    check_json_option(args.json)
    device = choose_device(args.cpu, args.threads)
    defaults = GPU if device.type == "cuda" else CPU
    described = described_network(args.model, args.allow_plugins)
    classes = args.classes or described.model.get("num_classes") or CLASSES
    bf16 = computes_in_bf16(device.type == "cpu")
    setting = ModelSetting(
        model={**described.model, "num_classes": classes},
        resolution=args.res or described.resolution,
        batch=args.batch or defaults["batch"],
        passes=tuple(args.passes),
        precisions=tuple(args.precision or (("fp32", "bf16") if bf16 else ("fp32",))),
        memory_formats=tuple(args.memory_format),
        compile=tuple(args.compile),
        peers=tuple(args.peer),
        rounds=args.rounds,
        steps=args.steps or defaults["steps"],
    )
    result = bench_model(setting, device)
    notes = result.notes
    if "bf16" in setting.precisions and not bf16:
        notes.append("this device has no bf16 arithmetic: bf16 is emulated")
    title = (
        f"{args.model}, {setting.resolution} px, batch {setting.batch}, {device_name(device)};"
        f" {setting.rounds} rounds of {setting.steps} steps"
    )
    notes = [*_limits(result.limits, device.type == "cuda"), "ratios: to the first row of a pass", *notes]
    facts = {"subject": "model", "name": args.model, "title": title, "setting": vars(setting)}
    facts |= {"limits": result.limits, "notes": notes, "environment": bench_environment(device)}
    show(result.rows, COLUMNS, facts, args.json)


def _limits(limits: dict[str, Any], on_gpu: bool) -> list[str]:
    """What the device could do, a line each."""
    of = "" if on_gpu else " a core"
    bandwidth, source = limits["bandwidth_bytes_per_second"], limits["bandwidth_source"]
    lines = [f"memory: {bandwidth / 1e9:,.0f} GB/s{of} ({source})"]
    for precision in ("fp32", "bf16"):
        if precision in limits:
            each = limits[precision]
            lines.append(
                f"{precision}: {each['flops_per_second'] / 1e12:,.2f} TFLOP/s{of} ({each['source']})"
            )
    return lines
