"""Makes two pages from the code: every option of the config, and every command."""

from __future__ import annotations

import argparse
import functools
import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.structure.files import File, Files

from anynet_dist import commands
from anynet_dist.cli import Parser
from anynet_dist.config.options import Option, options, sections

CONFIG_INTRODUCTION = """# Config

Every option of a run, from the code. In a YAML file an option stands in its section; on the command line its
whole name is a flag: `--optim.lr 0.4`. `anynet config show CONFIG` prints a config with all its values and
where each one comes from.
"""
COMMANDS_INTRODUCTION = """# Commands

Every command, from the code. `anynet COMMAND --help` prints the same. Commands that take a CONFIG take any
option of the [config](config.md) too, such as `--optim.lr 0.4`.

| exit code | |
|---|---|
| 0 | done |
| 1 | an unexpected error; images that were skipped (`predict`); problems found (`doctor`) |
| 2 | something to be put right, which one sentence names |
| 75 | saved and stopped, to be resumed |
"""


def on_files(files: Files, config: Any) -> Files:
    """Add both pages."""
    for name, text in (("config", config_page()), ("commands", commands_page())):
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def config_page() -> str:
    """Every option by section, with type, default and meaning."""
    parts = [CONFIG_INTRODUCTION]
    by_section: dict[str, list[Option]] = {name: [] for name in sections()}
    for key, option in options().items():
        by_section.setdefault(key.rpartition(".")[0], []).append(option)
    for name, members in by_section.items():
        if members:
            title, meaning = (f"`{name}`", sections()[name]) if name else ("Top level", "")
            parts.append(f"## {title} {{ #{name or 'top-level'} }}\n\n{meaning}\n")
            parts.append(table(("option", "type", "default", "meaning"), map(option_row, members)))
    return "\n".join(parts)


def option_row(option: Option) -> tuple[str, str, str, str]:
    """The cells of an option."""
    default = "" if option.default is None else f"`{shown(option.default)}`"
    return anchored(option.key, option.key), option.expected, default, option.doc


def shown(value: Any) -> str:
    """A default as YAML has it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def commands_page() -> str:
    """Every command and its actions, with usage and options."""
    parts = [COMMANDS_INTRODUCTION]
    for module in pkgutil.iter_modules(commands.__path__):
        parts += described(parser_of(module.name), level=2)
    return "\n".join(parts)


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a command, as the command line makes it."""
    module = importlib.import_module(f"{commands.__name__}.{command}")
    parser = Parser(prog=f"anynet {command}", description=module.__doc__)
    module.configure(parser)
    return parser


def described(parser: argparse.ArgumentParser, level: int, summary: str = "") -> Iterator[str]:
    """The section of a command, then those of its actions."""
    # argparse breaks lines at the terminal's width, which must not change the page.
    parser.formatter_class = functools.partial(argparse.HelpFormatter, width=100)
    anchor = parser.prog.replace(" ", "-")
    yield f"{'#' * level} `{parser.prog}` {{ #{anchor} }}\n"
    yield f"{parser.description or sentence(summary)}\n"
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not actions:
        yield f"```text\n{parser.format_usage().removeprefix('usage: ').strip()}\n```\n"
        arguments = [action for action in parser._actions if action.dest != "help"]
        yield table(("argument", "meaning"), (row(action, parser, anchor) for action in arguments))
    for choices in actions:
        summaries = {choice.dest: choice.help or "" for choice in choices._choices_actions}
        for name, action in choices.choices.items():
            yield from described(action, level + 1, summaries.get(name, ""))


def row(action: argparse.Action, parser: argparse.ArgumentParser, anchor: str) -> tuple[str, str]:
    """An argument as it is typed, and what it means."""
    formatter = parser._get_formatter()
    meaning = formatter._expand_help(action) if action.help else ""
    typed = formatter._format_action_invocation(action)
    last = action.option_strings[-1] if action.option_strings else f"-{action.dest}"
    return anchored(f"{anchor}{last}", typed), meaning


def sentence(summary: str) -> str:
    """A line of argparse's help as a sentence."""
    return f"{summary[:1].upper()}{summary[1:]}." if summary else ""


def anchored(anchor: str, text: str) -> str:
    """Code that a link can lead to."""
    return f"`{text}`{{ #{anchor} }}"


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(map(cell, cells))} |" for cells in rows]
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *lines, ""])


def cell(text: str) -> str:
    """Text of one line, with what Markdown or a table would take for its own escaped."""
    line = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    outside = re.split(r"(`[^`]*`(?:\{[^}]*\})?)", line)
    return "".join(part if part.startswith("`") else re.sub(r"([*_])", r"\\\1", part) for part in outside)
