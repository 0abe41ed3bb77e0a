"""The part of a command line that is a config: CONFIG, then options that change it."""

from __future__ import annotations

import argparse
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from anynet_dist.config.options import Option, options, sections


def add_config_arguments(parser: argparse.ArgumentParser, own_options: str = "") -> None:
    """Let a command take CONFIG and overrides, as `args.config` and `args.overrides` for load_config.

    `own_options` are those that its usage shows beside them.
    """
    parser.usage = " ".join(["%(prog)s CONFIG", *filter(None, [own_options]), "[--SECTION.OPTION VALUE ...]"])
    parser.add_argument("config", metavar="CONFIG", help="the config file (YAML)")
    parser.set_defaults(overrides=[])


def add_allow_plugins(parser: argparse.ArgumentParser) -> None:
    """Let a command that builds a network run the Python files that the network's own files name."""
    parser.add_argument(
        "--allow-plugins",
        action="store_true",
        help="run the Python files that the network names as its plug-ins: read them first",
    )


def config_help() -> str:
    """Every option of a config, by section, with its meaning and default."""
    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS,
        add_help=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34),
        epilog="A list is several values (--model.strides 1 2 2 2). A switch needs none, and goes off by no-"
        " (--data.augment.no-flip). None gives an option back its automatic value."
        " --resume is short for --run.resume.",
    )
    groups = {name: parser.add_argument_group(name, meaning) for name, meaning in sections().items()}
    for key, option in options().items():
        section = key.rpartition(".")[0]
        if section not in groups:
            groups[section] = parser.add_argument_group("further options")
        groups[section].add_argument(f"--{key}", metavar=_metavar(option), help=_meaning(option))
    return parser.format_help()


def _meaning(option: Option) -> str:
    default = "" if option.default in (None, [], {}) else f" (default: {_shown(option.default)})"
    return f"{option.doc}{default}".replace("%", "%%")


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(_shown(item) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _metavar(option: Option) -> str:
    several = next((kind for kind in option.alternatives if get_origin(kind) in (list, tuple)), None)
    if option.is_mapping:
        return "{NAME: VALUE, ...}"
    if several is None:
        return next(_type_name(kind) for kind in option.alternatives if kind is not NoneType)
    items = [_type_name(item) for item in get_args(several)]
    return " ".join(items) if get_origin(several) is tuple else f"{items[0]} ..."


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}"
    if get_origin(kind) in (Union, UnionType):
        return next(_type_name(member) for member in get_args(kind) if member is not NoneType)
    bare = get_args(kind)[0] if get_args(kind) else kind
    return {bool: "[true|false]", int: "INT", float: "NUMBER", str: "TEXT"}[bare]
