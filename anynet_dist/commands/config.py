"""Show a config as a run would see it, or make one of another trainer's.

`anynet config show CONFIG [overrides]` prints every option after inheritance and overrides, as YAML,
with a comment that names where its value came from.
`anynet config import pycls FILE.yaml [--out FILE]` writes the config that trains as pycls would, and
lists what has no counterpart.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from anynet_dist.config.arguments import add_config_arguments
from anynet_dist.system.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    show = actions.add_parser("show", help="print the merged config with where each value came from")
    show.description = "Print the merged config with where each value came from."
    add_config_arguments(show)
    imports = actions.add_parser("import", help="make a config of one of pycls")
    imports.add_argument("trainer", choices=("pycls",), help="whose config it is")
    imports.add_argument("file", metavar="FILE", type=Path, help="its config file (YAML)")
    imports.add_argument("--out", type=Path, metavar="FILE", help="the config to write (default: print it)")
    imports.add_argument("--overwrite", action="store_true", help="replace the file if it is there already")


def run(args: argparse.Namespace) -> None:
    """Carry out `anynet config ACTION`; raises UserError."""
    {"show": _show, "import": _import}[args.action](args)


def _show(args: argparse.Namespace) -> None:
    """Print the merged config; with colours on a terminal."""
    from anynet_dist.config import load_config
    from anynet_dist.config.dump import dump_with_sources

    text = dump_with_sources(load_config(args.config, args.overrides))
    if not sys.stdout.isatty():
        print(text, end="")
        return
    from rich.console import Console
    from rich.syntax import Syntax

    Console().print(Syntax(text, "yaml", theme="ansi_dark", background_color="default", word_wrap=True))


def _import(args: argparse.Namespace) -> None:
    from anynet_dist.system.files import atomic_path, check_outputs

    if args.out:
        check_outputs(args.out, overwrite=args.overwrite)
    text, notes = _imported(args.file)
    if not args.out:
        print(text, end="")
        return
    with atomic_path(args.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{args.out}: written; without a counterpart, or with another one, are:")
    for note in notes:
        print(f"  - {note}")


def _imported(file: Path) -> tuple[str, list[str]]:
    """The YAML of our config, and what it leaves out of theirs."""
    from dataclasses import asdict

    from anynet_dist.config.pycls_recipe import import_recipe
    from anynet_dist.models.pycls import pycls_images, pycls_network, read_pycls_config
    from anynet_dist.system.files import require_regular_file

    require_regular_file(str(file))
    try:
        config = read_pycls_config(file.read_text(encoding="utf-8"))
        images, model = asdict(pycls_images(config)), pycls_network(config)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    except (UserError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: {error}") from None
    shown = {name: images[name] for name in ("mean", "std", "crop_ratio")}
    recipe = import_recipe(config.values, config.given, **shown)
    options = {f"model.{key}": value for key, value in model.items()} | recipe.options
    return _as_yaml(file.name, options, recipe.notes), recipe.notes


def _as_yaml(name: str, options: dict[str, Any], notes: list[str]) -> str:
    from anynet_dist.config.dump import dump_options

    lines = [f"# As {name} of pycls. Without a counterpart, or with another one, are:"]
    lines += [f"# - {note}" for note in notes]
    return "\n".join(lines) + "\n" + dump_options(options)
