"""The commands of `anynet`, a module or a package each; they are listed without importing them."""

from __future__ import annotations

import ast
import pkgutil
from importlib.util import find_spec
from pathlib import Path

GROUPS = {
    "Start": ("init", "doctor", "config", "completion"),
    "Data": ("data",),
    "Train": ("train", "lr-find", "bench"),
    "Look at": ("status", "eval", "predict", "report"),
    "Explore": ("models", "sweep"),
    "Use elsewhere": ("export",),
    "Cluster": ("submit",),
}
"""What the commands are for, in the order in which they are needed."""


def command_names() -> list[str]:
    """All commands, as they are typed."""
    return [module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)]


def module_name(command: str) -> str:
    """The module of a command."""
    return f"{__name__}.{command.replace('-', '_')}"


def summary(command: str) -> str:
    """The first line of the command's docstring, read from the source: importing takes long."""
    found = find_spec(module_name(command))
    source = Path(found.origin).read_text(encoding="utf-8") if found and found.origin else ""
    first, *_ = (ast.get_docstring(ast.parse(source)) or "").splitlines() or [""]
    return first


def grouped() -> dict[str, list[str]]:
    """The commands by what they are for; those without a group come last."""
    there = command_names()
    groups = {title: [name for name in names if name in there] for title, names in GROUPS.items()}
    listed = {name for names in groups.values() for name in names}
    groups["More"] = [name for name in there if name not in listed]
    return {title: names for title, names in groups.items() if names}
