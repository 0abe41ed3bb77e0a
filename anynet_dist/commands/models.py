"""The zoo: list networks, show what one costs, import weights.

`anynet models list [PATTERN]` lists the presets with their parameters, multiply-adds and activations.
`anynet models show NAME_OR_CONFIG` shows each part of a network, and the memory that training takes.
`anynet models memory [PATTERN]` compares the memory that training presets takes, by batch and option.
`anynet models import SOURCE --out FILE` converts weights of torchvision, timm or pycls; SOURCE is a file,
torchvision:NAME (such as torchvision:resnet50) or timm:NAME (such as timm:regnetx_004).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anynet_dist.config.arguments import add_allow_plugins
from anynet_dist.system.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from anynet_dist.models import NetworkSpec
    from anynet_dist.models.activation_checkpointing import Chosen
    from anynet_dist.models.memory import Optimizer
    from anynet_dist.models.pretrained import Source
    from anynet_dist.system.ranges import Precision

RESOLUTION = 224
CLASSES = 1000
BATCH = 128
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list the presets")
    listing.add_argument(
        "pattern", nargs="?", default="*", help="part of a name, or a pattern: 'regnety_*gf'"
    )
    _add_size(listing)
    show = actions.add_parser("show", help="what a network and each part of it cost")
    show.add_argument("model", metavar="NAME_OR_CONFIG", help="a preset, or a config file (YAML)")
    _add_size(show)
    show.add_argument(
        "--batch", type=int, help=f"images at a time, for the memory (default: the config's, or {BATCH})"
    )
    add_allow_plugins(show)
    memory = actions.add_parser("memory", help="the memory that training takes, by network, batch and option")
    memory.add_argument("pattern", nargs="?", default="*", help="as for list")
    memory.add_argument(
        "--batch", type=int, nargs="+", default=[BATCH], help=f"images at a time (default: {BATCH})"
    )
    memory.add_argument("--optimizer", choices=("sgd", "adam", "adamw"), default="sgd", help="default: sgd")
    _add_size(memory)
    imports = actions.add_parser("import", help="convert weights of torchvision, timm or pycls")
    imports.add_argument("source", metavar="SOURCE", help="a file, torchvision:NAME or timm:NAME")
    imports.add_argument(
        "--model",
        metavar="NAME_OR_CONFIG",
        help="the network they are for; torchvision:NAME, timm:NAME and most checkpoints name it themselves",
    )
    imports.add_argument(
        "--weights",
        choices=("ema", "raw", "best"),
        default="best",
        help="of a checkpoint with a moving average: that, what was trained, or what the checkpoint states is"
        " better (default; where it states nothing, the moving average)",
    )
    order = imports.add_mutually_exclusive_group()
    order.add_argument(
        "--rgb", dest="channels", action="store_const", const="rgb", help="trained on RGB images"
    )
    order.add_argument(
        "--bgr", dest="channels", action="store_const", const="bgr", help="trained on BGR images"
    )
    for name in ("mean", "std"):
        imports.add_argument(
            f"--{name}",
            type=float,
            nargs=3,
            metavar=("R", "G", "B"),
            help=f"{name} of the images in 0..1, in RGB order (default: those of the source, or ImageNet's)",
        )
    imports.add_argument("--res", type=int, help="side of the images (default: that of the source, or 224)")
    imports.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the .safetensors file to write"
    )
    imports.add_argument("--overwrite", action="store_true", help="replace the file if it is there already")
    add_allow_plugins(imports)


def _add_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--res", type=int, help="side of the images (default: the config's, or what the network was made for)"
    )
    parser.add_argument("--classes", type=int, help=f"classes (default: the config's, or {CLASSES})")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Carry out `anynet models ACTION`; raises UserError."""
    {"list": _list, "show": _show, "memory": _memory, "import": _import}[args.action](args)


@dataclass(frozen=True, kw_only=True)
class Described:
    """A network that a preset's name or a config file describes."""

    model: dict[str, Any]
    """Arguments of `build_anynet`."""
    plugins: list[str] = field(default_factory=list)
    resolution: int = RESOLUTION
    batch: int = BATCH
    optimizer: Optimizer = "sgd"
    checkpointing: Chosen = False


def described_network(name: str, allow_plugins: bool) -> Described:
    """The network called `name`, or described in the config file `name`."""
    from anynet_dist.models import preset_description, preset_names, preset_resolution

    if name not in preset_names() and (Path(name).suffix in (".yaml", ".yml") or Path(name).is_file()):
        return _from_config(name, allow_plugins)
    preset_description(name)  # refuses unknown names
    return Described(model={"preset": name}, resolution=preset_resolution(name))


def _from_config(path: str, allow_plugins: bool) -> Described:
    from anynet_dist.config import load_config
    from anynet_dist.models.memory import known_optimizer
    from anynet_dist.models.registry import provide_parts
    from anynet_dist.training.build import model_arguments

    config = load_config(path, only_to_look=True).config
    model = model_arguments(config)
    provide_parts(model, config.plugins, path, allow_plugins)
    return Described(
        model=model,
        plugins=config.plugins,
        resolution=_first(config.data.train_res, RESOLUTION),
        batch=_first(config.train.max_device_batch, config.train.global_batch),
        optimizer=known_optimizer(config.optim.name),
        checkpointing=config.train.activation_checkpointing,
    )


def _list(args: argparse.Namespace) -> None:
    from anynet_dist.models.tables import networks_table

    classes = _first(args.classes, CLASSES)
    rows = [_listed(name, args.res, classes) for name in _matching(args.pattern)]
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        note = f"At {classes:,} classes (see --res and --classes); top-1 is that of ImageNet-1k at 224 px."
        _print(networks_table(rows), note)


def _matching(pattern: str) -> list[str]:
    from anynet_dist.models import preset_names

    wanted = pattern if set(pattern) & set("*?[") else f"*{pattern}*"
    names = [name for name in preset_names() if fnmatch(name, wanted.lower())]
    if not names:
        raise UserError(f"no preset matches '{pattern}'; 'anynet models list' lists them all")
    return names


def _listed(name: str, resolution: int | None, classes: int) -> dict[str, Any]:
    from anynet_dist.models import network_complexity, network_spec, preset_resolution, published_top1

    resolution = _first(resolution, preset_resolution(name))
    spec = network_spec(preset=name, num_classes=classes)
    published = published_top1(name)
    return {
        "name": name,
        **asdict(network_complexity(spec, resolution)),
        "resolution": resolution,
        "num_classes": classes,
        "top1": published and published.top1,
        "top1_source": published and published.source,
    }


def _memory(args: argparse.Namespace) -> None:
    from anynet_dist.models.memory import HOW
    from anynet_dist.models.tables import peaks_table

    classes = _first(args.classes, CLASSES)
    names = _matching(args.pattern)
    rows = [_peaks(name, batch, args.res, classes, args.optimizer) for name in names for batch in args.batch]
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        note = f"At {classes:,} classes, with {args.optimizer}. {HOW}"
        _print(peaks_table(rows, list(_KINDS)), note)


_KINDS: dict[str, tuple[Precision, bool]] = {
    "fp32": ("fp32", False),
    "bf16": ("bf16", False),
    "fp32 checkpointed": ("fp32", True),
    "bf16 checkpointed": ("bf16", True),
}
"""Precision, and whether all activations are checkpointed (train.activation_checkpointing)."""


def _peaks(
    name: str, batch: int, resolution: int | None, classes: int, optimizer: Optimizer
) -> dict[str, Any]:
    from anynet_dist.models import check_resolution, network_spec, preset_resolution, training_memory
    from anynet_dist.models.memory import UnknownMemoryError

    spec = network_spec(preset=name, num_classes=classes)
    resolution = _first(resolution, preset_resolution(name))
    check_resolution(spec, resolution)
    row: dict[str, Any] = {"name": name, "resolution": resolution, "batch": batch}
    for kind, (precision, checkpointing) in _KINDS.items():
        try:
            needed = training_memory(spec, resolution, batch, precision, optimizer, checkpointing)
            row[kind] = needed.total
        except UnknownMemoryError:
            row[kind] = None
    return row


def _show(args: argparse.Namespace) -> None:
    from anynet_dist.models import check_resolution, network_spec, part_complexities, training_memory
    from anynet_dist.models.memory import HOW, UnknownMemoryError
    from anynet_dist.models.tables import memory_table, parts_table, total_cost

    described = described_network(args.model, args.allow_plugins)
    classes = _first(args.classes, described.model.get("num_classes"), CLASSES)
    spec = network_spec(**{**described.model, "num_classes": classes})
    resolution, batch = _first(args.res, described.resolution), _first(args.batch, described.batch)
    check_resolution(spec, resolution)
    parts = part_complexities(spec, resolution)
    try:
        memory = {
            precision: training_memory(
                spec, resolution, batch, precision, described.optimizer, described.checkpointing
            )
            for precision in PRECISIONS
        }
        how = HOW
    except UnknownMemoryError as error:
        memory, how = {}, str(error).splitlines()[0]
    if args.json:
        facts = {"name": args.model, "resolution": resolution, "num_classes": classes, **total_cost(parts)}
        facts |= {"parts": [asdict(part) for part in parts], "batch": batch, "optimizer": described.optimizer}
        facts["memory"] = {name: {**asdict(each), "total": each.total} for name, each in memory.items()}
        print(json.dumps(facts, indent=2))
    else:
        note = f"At {resolution} px and {classes:,} classes (see --res and --classes)."
        _print(parts_table(args.model, spec, parts), note)
        _print(memory_table(memory, batch, described.optimizer), how)


def _first(*values: int | None) -> int:
    """The first that is given; 0 is given, and refused where it is used."""
    return next(value for value in values if value is not None)


def _import(args: argparse.Namespace) -> None:
    from anynet_dist.models.pretrained import import_network, read_source
    from anynet_dist.runs.network_file import NetworkDescription, save_network
    from anynet_dist.system.files import check_outputs
    from anynet_dist.system.logging import setup_logging
    from anynet_dist.system.output import tolerate_lost_output

    tolerate_lost_output()
    setup_logging()
    check_outputs(args.out, overwrite=args.overwrite)
    described = described_network(args.model, args.allow_plugins) if args.model else None
    source = _with_options(read_source(args.source, args.weights), args)
    if described is None:
        described = _named_by(source.description, args.source)
    imported = import_network(source, described.model)
    description = NetworkDescription(
        model=imported.model,
        classes=source.classes,
        mean=source.mean,
        std=source.std,
        resolution=source.resolution,
        crop_ratio=source.crop_ratio,
        plugins=described.plugins,
    )
    save_network(args.out, imported.network, description, source=source.name)
    print(f"{args.out}: {_summary(imported.model, imported.network.spec)}{_compared(imported.difference)}")


def _with_options(source: Source, args: argparse.Namespace) -> Source:
    """The source, with what the command line sets for its images."""
    if any(not 0 <= value <= 1 for value in args.mean or ()) or any(value <= 0 for value in args.std or ()):
        raise UserError("--mean takes three numbers from 0 to 1, --std three above 0, as for pixels in 0..1")
    if args.res is not None and args.res < 1:
        raise UserError(f"--res must be at least 1, not {args.res}")
    said = {"channels": args.channels, "resolution": args.res}
    said |= {key: tuple(colour) for key in ("mean", "std") if (colour := getattr(args, key))}
    return replace(source, **{key: value for key, value in said.items() if value is not None})


def _named_by(model: dict[str, Any] | None, source: str) -> Described:
    if model is None:
        raise UserError(
            f"{source} does not state which network it is for: name it with --model NAME_OR_CONFIG"
        )
    return Described(model=model)


def _summary(model: dict[str, Any], spec: NetworkSpec) -> str:
    from anynet_dist.models import network_complexity

    params = network_complexity(spec).params
    return f"{model.get('preset', 'AnyNet')}, {params:,} parameters, {spec.head.num_classes:,} classes"


def _compared(difference: float | None) -> str:
    if difference is None:
        return ""
    return f"\noutputs on random images differ from the source's own by at most {difference:g}"


def _print(table: Table, note: str) -> None:
    from anynet_dist.models.tables import table_text

    print(table_text(table, note))
