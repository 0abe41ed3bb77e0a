"""Build .beton files or adopt those of others, look at them, verify and stage them, plan their storage."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anynet_dist.config.arguments import add_config_arguments
from anynet_dist.system.errors import UserError
from anynet_dist.system.logging import setup_logging
from anynet_dist.system.output import tolerate_lost_output

if TYPE_CHECKING:
    from rich.table import Table

    from anynet_dist.bench.storage import Machine, Verdict
    from anynet_dist.data.beton.sidecar import Sidecar
    from anynet_dist.data.beton.writer import WriteOptions

SOURCES = ("digits", "cifar10", "imagefolder", "imagenet")
WRITE_MODES = ("raw", "jpg", "proportion")
PROFILES = ("raw256", "mix400", "mix500", "jpeg500")
BAD_IMAGE_POLICIES = ("stop", "skip", "black")
STORAGE: dict[str, Any] = {
    "write_mode": "raw",
    "max_resolution": None,
    "quality": 90,
    "compress_probability": 0.5,
}
"""The options that a profile sets, with what holds where neither it nor the option is given."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `anynet data`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _configure_build(actions.add_parser("build", help="write train, val and test .beton files from images"))
    _configure_adopt(
        actions.add_parser("adopt", help="make a .beton file usable that FFCV's own writer made")
    )
    inspect = actions.add_parser("inspect", help="print what a .beton file holds and verify it")
    inspect.add_argument("file", type=Path, help="the .beton file")
    verify = actions.add_parser("verify", help="check a .beton file's tables and checksum")
    verify.add_argument("file", type=Path, help="the .beton file")
    verify.add_argument("--deep", action="store_true", help="decode every image and compare its checksum")
    verify.add_argument("--workers", type=int, metavar="N", help="processes (default: all usable cores)")
    _configure_show(actions.add_parser("show", help="write a picture of some images, plain or augmented"))
    _configure_plan(actions.add_parser("plan", help="advise which profile fits this machine"))
    stage = actions.add_parser("stage", help="copy a run's .beton files to a disk of this machine")
    stage.description = (
        "Copy the .beton files that a config names to a disk of this machine, checked by their checksums, and"
        " print the options that make a run use the copies. What is there already is not copied again."
    )
    add_config_arguments(stage)
    stage.usage = "%(prog)s CONFIG --to FOLDER [--SECTION.OPTION VALUE ...]"
    stage.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where the copies go")


def _configure_adopt(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Check a .beton file that FFCV's DatasetWriter made, measure mean and deviation of its colours, and"
        " write its sidecar: beside it or, where that cannot be, in $ANYNET_SIDECARS (default:"
        " ~/.cache/anynet_dist/sidecars)."
    )
    parser.add_argument("file", type=Path, help="the .beton or .ffcv file")
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="names of the classes, one per line or a JSON list"
    )
    parser.add_argument("--image-field", metavar="NAME", help="default: image, or the only field of images")
    parser.add_argument("--label-field", metavar="NAME", help="default: label, or the only field of numbers")
    parser.add_argument(
        "--elsewhere", action="store_true", help="write nothing beside the file, though its folder could be"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: all usable cores)")
    parser.add_argument("--overwrite", action="store_true", help="replace a sidecar that is there already")


def _configure_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help=f"where the images come from: {', '.join(SOURCES)}, or what a plug-in registers",
    )
    parser.add_argument(
        "--plugins",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="python files that register sources",
    )
    parser.add_argument("--root", type=Path, help="folder of the images (train/CLASS/IMAGE, val/, test/)")
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=0.0,
        metavar="F",
        help="image folders: draw this fraction of the training images, class by class, as val",
    )
    parser.add_argument(
        "--test-fraction", type=float, default=0.0, metavar="F", help="the same for test (default: none)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: all usable cores)")


def _configure_show(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write a picture of some images, as many of each class as there is room for: as they are stored or,"
        " with --augment, as the run of a config would see them in its first epochs, one image a row."
    )
    parser.add_argument("file", type=Path, metavar="FILE_OR_FOLDER", help="a .beton file, or CLASS/IMAGE")
    parser.add_argument("--out", type=Path, default=Path("grid.png"), help="default: %(default)s")
    parser.add_argument("--augment", action="store_true", help="show them augmented, as CONFIG says")
    parser.add_argument("--config", type=Path, metavar="CONFIG", help="the run config, for --augment")
    parser.add_argument("--count", type=int, metavar="N", help="images (default: 64; augmented 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice (default: %(default)s)")


def _configure_plan(parser: argparse.ArgumentParser) -> None:
    _configure_source(parser)
    parser.add_argument(
        "--out", type=Path, default=Path(), help="where the files are to lie (default: the working folder)"
    )
    parser.add_argument("--images-per-second", type=float, metavar="N", help="what each GPU is to be fed")
    parser.add_argument(
        "--gpus", type=int, default=1, metavar="N", help="on this machine (default: %(default)s)"
    )


def _configure_build(parser: argparse.ArgumentParser) -> None:
    _configure_source(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for train.beton and val.beton")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace .beton files of these names that are there already"
    )
    parser.add_argument(
        "--download", action="store_true", help="cifar10: fetch it into --root when it is not there"
    )
    parser.add_argument("--profile", choices=PROFILES, help="a named choice of the next four")
    parser.add_argument(
        "--write-mode",
        choices=WRITE_MODES,
        help="raw: pixels, fastest; jpg: smallest; proportion: a part as JPEG (default: raw)",
    )
    parser.add_argument("--max-resolution", type=int, metavar="N", help="make longer sides N pixels at most")
    parser.add_argument("--quality", type=int, metavar="N", help="JPEG quality (default: 90)")
    parser.add_argument(
        "--compress-probability",
        type=float,
        metavar="P",
        help="with proportion: fraction of images stored as JPEG (default: 0.5)",
    )
    parser.add_argument(
        "--on-bad-image",
        choices=BAD_IMAGE_POLICIES,
        default="stop",
        help="stop: name all and write nothing; skip: leave out; black: a black image (default: %(default)s)",
    )
    parser.add_argument(
        "--shard-check", action="store_true", help="read all images once more after writing, and compare"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of splits that are drawn and of proportion (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Carry out `anynet data ACTION`; raises UserError."""
    if args.action in ("adopt", "build", "plan", "verify") and args.workers is not None and args.workers < 1:
        raise UserError(f"--workers must be at least 1, not {args.workers}")
    if args.action == "build":
        tolerate_lost_output()
    if args.action != "stage":
        setup_logging()
    actions = {
        "adopt": _adopt,
        "build": _build,
        "plan": _plan,
        "verify": _verify,
        "inspect": _inspect,
        "show": _show,
        "stage": _stage,
    }
    actions[args.action](args)


def _build(args: argparse.Namespace) -> None:
    from rich.console import Console

    from anynet_dist.data.beton.build import build_source, check_targets
    from anynet_dist.data.sources import SOURCES, SPLITS, load_source
    from anynet_dist.data.splits import Fractions
    from anynet_dist.system.plugins import load_plugins

    load_plugins(args.plugins)
    SOURCES.find(args.source)
    options, fractions = _options(args), Fractions(args.val_fraction, args.test_fraction, args.seed)
    splits = (*SPLITS, "test") if fractions.test else SPLITS
    check_targets((args.out / f"{split}.beton" for split in splits), args.overwrite)
    with _tidy_when_terminated():
        source = load_source(
            args.source, args.root, allow_download=args.download, seed=args.seed, fractions=fractions
        )
        sidecars = build_source(
            source,
            args.out,
            options,
            workers=args.workers,
            check=args.shard_check,
            overwrite=args.overwrite,
        )
    for split, sidecar in sidecars.items():
        Console().print(_describe(args.out / f"{split}.beton", sidecar))


def _adopt(args: argparse.Namespace) -> None:
    from rich.console import Console

    from anynet_dist.data.beton.adopt import adopt

    with _tidy_when_terminated():
        adopted = adopt(
            args.file,
            classes_file=args.classes,
            image_field=args.image_field,
            label_field=args.label_field,
            elsewhere=args.elsewhere,
            workers=args.workers,
            overwrite=args.overwrite,
        )
    Console().print(_describe(args.file, adopted.sidecar))
    print(f"sidecar: {adopted.path}\nnext: anynet train CONFIG --data.train {args.file}")


def _options(args: argparse.Namespace) -> WriteOptions:
    """The options of the profile, or the single ones; raises UserError where both are given."""
    from anynet_dist.data.beton.profiles import PROFILES
    from anynet_dist.data.beton.writer import WriteOptions

    given = {name: getattr(args, name) for name in STORAGE if getattr(args, name) is not None}
    common: dict[str, Any] = {"seed": args.seed, "on_bad_image": args.on_bad_image}
    if args.profile is None:
        return WriteOptions(**{**STORAGE, **given}, **common)
    if given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UserError(f"--profile {args.profile} sets these itself, so leave out {names}")
    return replace(PROFILES[args.profile].options, **common)


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


def _inspect(args: argparse.Namespace) -> None:
    from rich.console import Console

    from anynet_dist.data.beton.verify import verify_beton

    console = Console()
    console.print(_describe(args.file, verify_beton(args.file)))
    console.print("tables and checksum are right")


def _show(args: argparse.Namespace) -> None:
    from anynet_dist.data.dataset import open_dataset
    from anynet_dist.report.data_grid import show_augmented, show_stored

    count = args.count if args.count is not None else 8 if args.augment else 64
    if count < 1:
        raise UserError(f"--count must be at least 1, not {count}")
    if args.augment != (args.config is not None):
        raise UserError("--augment and --config CONFIG belong together: the config says how to augment")
    if args.augment:
        from anynet_dist.config import load_config
        from anynet_dist.training import build
        from anynet_dist.training.optim.resolution import train_resolution

        config = load_config(args.config, ["--data.train", str(args.file)], only_to_look=True).config
        data = build.open_splits(replace(config, data=replace(config.data, val=None, test=None)))["train"]
        config = build.resolve(config, data)
        show_augmented(
            data,
            args.out,
            count,
            build.augmentation(config.data.augment),
            build.resolved_normalisation(config),
            train_resolution(config.data, epoch=0),
            args.seed,
        )
    else:
        show_stored(open_dataset(args.file), args.out, count, args.seed)
    print(f"picture: {args.out}")


def _verify(args: argparse.Namespace) -> None:
    from anynet_dist.data.beton.verify import verify_beton, verify_deep

    sidecar = verify_deep(args.file, args.workers) if args.deep else verify_beton(args.file)
    what = "tables, checksum and every image" if args.deep else "tables and checksum"
    print(f"{args.file}: {what} are right ({sidecar.num_samples:,} images)")


def _stage(args: argparse.Namespace) -> None:
    """Standard output has the options alone, one word per line, for a script to read."""
    with redirect_stdout(sys.stderr):
        setup_logging()
        options = list(_staged_options(args))
    sys.stdout.flush()
    sys.stdout.buffer.write(os.fsencode("".join(f"{word}\n" for word in options)))  # paths may be no UTF-8


def _staged_options(args: argparse.Namespace) -> Iterator[str]:
    from anynet_dist.config import load_config
    from anynet_dist.data.beton.estimate import gibibytes
    from anynet_dist.data.beton.staging import stage

    data = load_config(args.config, args.overrides).config.data
    for split, path in (("train", data.train), ("val", data.val), ("test", data.test)):
        if path is None or Path(path).is_dir():
            continue
        staged = stage(Path(path), args.to)
        how = "was there already"
        if staged.seconds is not None:
            how = f"{gibibytes(staged.size)} copied in {staged.seconds:.1f} s, checksum right"
        print(f"{staged.path} on {socket.gethostname()}: {how}")
        yield from (f"--data.{split}", str(staged.path))


def _plan(args: argparse.Namespace) -> None:
    from rich.console import Console

    from anynet_dist.bench.storage import advise, judge, measure_costs, this_machine
    from anynet_dist.data.sources import load_source
    from anynet_dist.data.splits import Fractions
    from anynet_dist.system.plugins import load_plugins

    load_plugins(args.plugins)
    if args.gpus < 1 or (args.images_per_second is not None and args.images_per_second <= 0):
        raise UserError("--gpus and --images-per-second must be positive")
    target = None if args.images_per_second is None else args.images_per_second * args.gpus
    machine = this_machine(args.out)
    fractions = Fractions(args.val_fraction, args.test_fraction)
    source = load_source(args.source, args.root, fractions=fractions)
    verdicts = judge(measure_costs(source, args.workers or machine.cores), machine, target)
    best, reason = advise(verdicts, target)
    console = Console()
    console.print(_plan_table(verdicts, machine, target))
    if best is None:
        raise UserError(f"{args.out}: {reason}")
    console.print(f"take --profile {best.cost.profile}: {reason}")
    if not best.fits_memory:
        from anynet_dist.data.beton.estimate import gibibytes

        console.print(
            f"the disk must then read {gibibytes(best.disk_rate(target))} per second while training"
        )


def _plan_table(verdicts: Sequence[Verdict], machine: Machine, target: float | None) -> Table:
    from rich.table import Table

    from anynet_dist.data.beton.estimate import duration, gibibytes
    from anynet_dist.data.beton.profiles import PROFILES

    table = Table(
        title=f"disk {gibibytes(machine.disk_free)} free, memory {gibibytes(machine.memory)} available, "
        f"{machine.cores} cores" + (f", wanted {target:,.0f} images/s" if target else "")
    )
    for column in ("profile", "size", "fits disk", "fits memory", "build", "images/s per core", "images/s"):
        table.add_column(column, justify="left" if column == "profile" else "right")
    for verdict in verdicts:
        cost, rate = verdict.cost, f"{verdict.rate:,.0f}" + ("" if verdict.fast_enough else " (too slow)")
        fits = ["yes" if fit else "no" for fit in (verdict.fits_disk, verdict.fits_memory)]
        build = duration(cost.build_seconds)
        table.add_row(cost.profile, gibibytes(cost.size), *fits, build, f"{cost.rate_per_core:,.0f}", rate)
    table.caption = "\n".join(f"{name}: {profile.about}" for name, profile in PROFILES.items())
    return table


def _describe(path: Path, sidecar: Sidecar) -> Table:
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = Table("", escape(str(path)), title_justify="left")
    for name, value in _rows(sidecar):
        table.add_row(name, Text(value))  # a class may be called [red]
    return table


def _rows(sidecar: Sidecar) -> list[tuple[str, str]]:
    names = ", ".join(sidecar.classes[:10]) + (", ..." if len(sidecar.classes) > 10 else "")
    counts = sidecar.class_counts
    height, width = sidecar.image_shape or sidecar.max_shape
    mode = sidecar.write_mode
    if mode == "proportion":
        mode += f", {sidecar.compress_probability:.0%} as JPEG"
    if sidecar.write_mode != "raw" and sidecar.quality is not None:
        mode += f", quality {sidecar.quality}"
    rule = [] if sidecar.split_rule is None else [("split", sidecar.split_rule)]
    return [
        ("source", f"{sidecar.source}, {sidecar.split}"),
        *rule,
        ("images", f"{sidecar.num_samples:,}"),
        ("classes", f"{len(sidecar.classes)} ({names}), {min(counts):,} to {max(counts):,} images each"),
        ("size of images", f"{'' if sidecar.image_shape else 'up to '}{width}x{height} pixels"),
        ("mean (RGB, 0..1)", ", ".join(f"{value:.4f}" for value in sidecar.mean)),
        ("std (RGB, 0..1)", ", ".join(f"{value:.4f}" for value in sidecar.std)),
        (
            "written",
            mode + (f", longer side at most {sidecar.max_resolution}" if sidecar.max_resolution else ""),
        ),
        ("FFCV when built", "unknown" if sidecar.adopted else sidecar.ffcv_version or "not installed"),
        ("size", f"{sidecar.size / 2**20:,.1f} MiB"),
        ("sha256", sidecar.sha256),
    ]
