"""Show a config as a run would see it.

`anynet config show CONFIG [overrides]` prints every option after inheritance and overrides, as YAML,
with a comment that says where its value came from.
"""

from __future__ import annotations

import argparse
import sys

from anynet_dist.config.arguments import add_config_arguments


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    show = actions.add_parser("show", help="print the merged config with where each value came from")
    show.description = "Print the merged config with where each value came from."
    add_config_arguments(show)


def run(args: argparse.Namespace) -> None:
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
