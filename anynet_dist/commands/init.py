"""Copy a starting point: a config for your own images, launch files, settings for a cluster.

`anynet init [DIR]` writes own_images.yaml, launch/ and slurm/site.sh into DIR (default: this folder). It asks
nothing and replaces nothing: what is there already stays, and is named. It ends with the commands that come
next. The config starts from pretrained weights, which suit a small number of images.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from pathlib import Path

CONFIG = "own_images.yaml"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the folder."""
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(), metavar="DIR", help="default: this folder"
    )


def run(args: argparse.Namespace) -> None:
    """Write what is not there yet. Raises UserError where that is not possible."""
    from anynet_dist.system.files import check_outputs, write_text

    files = {args.folder / name: text for name, text in _starting_point().items()}
    check_outputs(*files, overwrite=True)  # that it can be written: what is there stays
    for path, text in files.items():
        if os.path.lexists(path):
            print(f"{path} exists already and is unchanged")
        else:
            write_text(path, text)
            print(f"{path} written")
    print(_next(args.folder))


def _starting_point() -> dict[str, str]:
    """The files by name, with the paths that they have in the new folder."""
    from anynet_dist.system.shipped import shipped

    launch = sorted(path for path in shipped("launch").iterdir() if path.suffix in (".yaml", ".json"))
    return {
        CONFIG: shipped(f"configs/{CONFIG}").read_text(encoding="utf-8").replace("configs/own_", "own_"),
        **{f"launch/{path.name}": path.read_text(encoding="utf-8") for path in launch},
        "slurm/site.sh": _site(shipped("slurm/site.example.sh").read_text(encoding="utf-8")),
    }


def _site(example: str) -> str:
    """The example with this Python's environment, where it is one, in place of a checkout's."""
    if sys.prefix == sys.base_prefix:
        return example
    return re.sub(
        r"^ANYNET_VENV=\S*", lambda _: f"ANYNET_VENV={shlex.quote(sys.prefix)}", example, flags=re.M
    )


def _next(folder: Path) -> str:
    enter = [f"cd {shlex.quote(str(folder))}"] if folder != Path() else []
    lines = [
        *enter,
        f"anynet config show {CONFIG}",
        f"anynet train {CONFIG} --data.train IMAGES/train --data.val IMAGES/val",
        f"accelerate launch --config_file launch/one_machine.yaml -m anynet_dist train {CONFIG}",
        f"anynet submit {CONFIG} --site slurm/site.sh --dry-run",
    ]
    return "\n".join(["next:", *(f"  {line}" for line in lines)])
