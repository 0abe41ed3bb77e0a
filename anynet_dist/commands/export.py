"""Write a trained network as a file for other programs, or as a folder for the Hugging Face Hub.

`anynet export RUN --to onnx` writes RUN/export/model.onnx and prints how far its outputs are from the trained
network's; above the tolerance nothing is written. The file takes float32 RGB images (N, 3, R, R) for any N:
normalised as in training, or plain values in 0..1 with --with-normalisation. Its metadata holds the class
names and the description of the network. `--to safetensors` holds the weights alone, for load_model.

`--to torchvision|timm|pycls` writes the weights for the same network there: a state dict (model.pth), a
folder for timm.create_model("local-dir:FOLDER", pretrained=True), or a checkpoint with model_state
(model.pyth).
"""

from __future__ import annotations

import argparse

from anynet_dist.config.arguments import add_allow_plugins

FORMATS = (
    "safetensors",
    "torchvision",
    "timm",
    "pycls",
    "torchscript",
    "onnx",
    "torch-export",
    "hub-folder",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the run, the format and what may be changed on the way."""
    parser.add_argument(
        "path",
        metavar="RUN",
        help="a run folder, a checkpoint folder, a model.safetensors or hf:OWNER/NAME",
    )
    parser.add_argument("--to", choices=FORMATS, required=True, help="what to write")
    parser.add_argument("--out", metavar="PATH", help="file or folder to write (default: in RUN/export)")
    parser.add_argument(
        "--weights",
        choices=("auto", "raw", "ema"),
        default="auto",
        help="of a checkpoint: its weights, or their moving average, which auto takes where there is one",
    )
    parser.add_argument(
        "--with-normalisation", action="store_true", help="build (x - mean) / std in: images are RGB in 0..1"
    )
    parser.add_argument("--fold-bn", action="store_true", help="make batch norm part of the convolutions")
    parser.add_argument(
        "--dynamic-side",
        action="store_true",
        help="take images of any height and width, not only those of the evaluation",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        metavar="T",
        help="largest difference allowed, as a fraction of the largest output or of 1 (default: %(default)s)",
    )
    add_allow_plugins(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    parser.add_argument("--push", metavar="OWNER/NAME", help="with hub-folder: upload it to this repository")
    parser.add_argument("--private", action="store_true", help="with --push: make a new repository private")


def run(args: argparse.Namespace) -> None:
    """Export, print what was written and how exact it is, and upload it if asked."""
    from anynet_dist.system.errors import UserError
    from anynet_dist.system.logging import setup_logging
    from anynet_dist.system.output import tolerate_lost_output

    tolerate_lost_output()
    setup_logging()
    if args.path.startswith("hf:") and not args.out:
        raise UserError(f"{args.path} is not in one of your folders: give the place to write with --out")
    if args.private and not args.push:
        raise UserError("--private has no effect without --push OWNER/NAME")
    if args.to == "hub-folder":
        _export_hub_folder(args)
    elif args.push:
        raise UserError("--push uploads a Hub folder: add --to hub-folder")
    elif args.to == "timm":
        _export_timm_folder(args)
    else:
        _export_file(args)


def _export_file(args: argparse.Namespace) -> None:
    from anynet_dist.export.exporter import export_network
    from anynet_dist.inference.trained import open_trained

    path, check = export_network(
        open_trained(args.path, args.weights, args.allow_plugins),
        args.to,
        args.out,
        with_normalisation=args.with_normalisation,
        fold_bn=args.fold_bn,
        dynamic_side=args.dynamic_side,
        tolerance=args.tolerance,
        overwrite=args.overwrite,
    )
    print(f"wrote {path} ({path.stat().st_size / 2**20:,.1f} MiB)\n{check}")


def _export_timm_folder(args: argparse.Namespace) -> None:
    from anynet_dist.export.exporter import export_timm_folder
    from anynet_dist.inference.trained import open_trained

    _refuse_changes(args)
    trained = open_trained(args.path, args.weights, args.allow_plugins)
    folder, check = export_timm_folder(trained, args.out, tolerance=args.tolerance, overwrite=args.overwrite)
    print(f"wrote {folder}\n{check}")


def _refuse_changes(args: argparse.Namespace) -> None:
    from anynet_dist.system.errors import UserError

    if args.with_normalisation or args.fold_bn or args.dynamic_side:
        raise UserError(
            f"--with-normalisation, --dynamic-side and --fold-bn have no effect on {args.to},"
            " which holds weights"
        )


def _export_hub_folder(args: argparse.Namespace) -> None:
    from anynet_dist.export.hub import check_login, push_folder, write_hub_folder
    from anynet_dist.inference.trained import open_trained

    _refuse_changes(args)
    if args.push:
        check_login(args.push)
    folder, check = write_hub_folder(
        open_trained(args.path, args.weights, args.allow_plugins),
        args.out,
        repo_id=args.push,
        tolerance=args.tolerance,
        overwrite=args.overwrite,
    )
    print(f"wrote {folder}\n{check}")
    if args.push:
        print(f"uploaded to {push_folder(folder, args.push, args.private)}")
