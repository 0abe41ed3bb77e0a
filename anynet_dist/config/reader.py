"""Config files: strict YAML with line numbers, and `base:` inheritance.

Plain scalars follow YAML 1.2, so `5e-05` is a number and only `true` and `false` are truth values:
`no`, `off` and dates stay the text they are.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from anynet_dist.config.problems import ConfigError, Problem, Setting, Source

Settings = dict[str, Setting]

_TAG = "tag:yaml.org,2002:"
_PLAIN = {
    "null": (r"~|null|Null|NULL|", [*"~nN", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    "int": (r"[-+]?[0-9][0-9_]*", [*"-+0123456789"]),
    "float": (r"[-+]?(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", [*"-+.0123456789"]),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - PyYAML copies it before adding to it


class PlainDumper(yaml.SafeDumper):
    """Quotes any text that this reader, or an ordinary YAML 1.1 one, would take for something else."""


for _name, (_pattern, _first) in _PLAIN.items():
    for _class in (_Loader, PlainDumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})$"), _first)


def read_config(path: Path, problems: list[Problem]) -> Settings:
    """The settings of a file over those of its bases, by dotted key; what can be read past joins `problems`.

    Raises ConfigError where a file cannot be read at all.
    """
    return _read(path, problems, ())


def parse_value(text: str) -> Any:
    """The value that `text` has in a config file; the text itself where it is no valid YAML."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _value(node)
    except yaml.YAMLError:
        return text


def _read(path: Path, problems: list[Problem], above: tuple[str, ...]) -> Settings:
    root = _compose(path)
    own: Settings = {}
    if root is not None:
        _Reader(str(path), own, problems).read(root)
    bases = own.pop("base", None)
    _resolve_plugins(own, path)
    settings: Settings = {}
    for base in _base_paths(bases, path, problems):
        chain = (*above, str(path))
        if str(base) in chain:
            circle = " -> ".join([*chain[chain.index(str(base)) :], str(base)])
            raise _fatal(bases, f"goes round in a circle: {circle}")
        if not base.is_file():
            raise _fatal(bases, f"there is no file '{base}'")
        settings |= _read(base, problems, chain)
    return settings | own


def _compose(path: Path) -> yaml.Node | None:
    try:
        return yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot read it: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(str(path), "is not a text file in UTF-8")]) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        source = Source(file=str(path), line=mark.line + 1 if mark else 1)
        raise ConfigError(
            [Problem("", f"not valid YAML: {error.problem or error.context}", source)]
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError([Problem(str(path), f"not valid YAML: {str(error).splitlines()[0]}")]) from error


class _Reader:
    """Flattens the node tree of one file into settings by dotted key."""

    def __init__(self, file: str, settings: Settings, problems: list[Problem]) -> None:
        self.file, self.settings, self.problems = file, settings, problems
        self.lines: dict[str, int] = {}

    def read(self, root: yaml.Node) -> None:
        if root.tag != f"{_TAG}map" or not isinstance(root, yaml.MappingNode):
            self._problem("", "must be keys and values, such as 'optim:' with 'lr: 0.4' below it", root)
            return
        try:
            self._mapping(root, "")
        except RecursionError:
            self._problem("", "an anchor contains an alias of itself", root)

    def _mapping(self, mapping: yaml.MappingNode, prefix: str) -> None:
        for key_node, value_node in mapping.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(prefix.rstrip("."), "a key must be a name", key_node)
                continue
            key = f"{prefix}{key_node.value}"
            line = key_node.start_mark.line + 1
            if key in self.lines:
                self._problem(key, f"set twice, first in line {self.lines[key]}", key_node)
                continue
            self.lines[key] = line
            self._entry(key, value_node, line)

    def _entry(self, key: str, node: yaml.Node, line: int) -> None:
        if isinstance(node, yaml.MappingNode) and node.value and node.tag == f"{_TAG}map":
            self._mapping(node, f"{key}.")
            return
        try:
            self.settings[key] = Setting(_value(node), Source(file=self.file, line=line))
        except yaml.MarkedYAMLError as error:
            self._problem(key, str(error.problem), node)

    def _problem(self, key: str, message: str, node: yaml.Node) -> None:
        source = Source(file=self.file, line=node.start_mark.line + 1)
        self.problems.append(Problem(key, message, source))


def _value(node: yaml.Node) -> Any:
    content, tag = node.value, node.tag.removeprefix(_TAG)
    if isinstance(node, yaml.SequenceNode) and tag == "seq":
        return [_value(item) for item in content]
    if isinstance(node, yaml.MappingNode) and tag == "map":
        return {str(_value(key)): _value(value) for key, value in content}
    if tag == "str":
        return content
    if tag in _PLAIN and re.fullmatch(_PLAIN[tag][0], content):
        return _scalar(content, tag)
    raise yaml.MarkedYAMLError(problem=f"cannot be read as {node.tag}")


def _scalar(text: str, tag: str) -> Any:
    if tag == "float":
        return float(text) if math.isfinite(float(text)) else text
    if tag == "int":
        return int(text)
    return text.lower() == "true" if tag == "bool" else None


def _base_paths(bases: Setting | None, path: Path, problems: list[Problem]) -> Iterator[Path]:
    if bases is None:
        return
    values = bases.value if isinstance(bases.value, list) else [bases.value]
    for value in values:
        if isinstance(value, str):
            yield Path(os.path.normpath(path.parent / value))
        else:
            message = f"must be the path of a config file, or a list of them (got {value!r})"
            problems.append(Problem("base", message, bases.source))


def _fatal(bases: Setting | None, message: str) -> ConfigError:
    assert bases is not None
    return ConfigError([Problem("base", message, bases.source)])


def _resolve_plugins(settings: Settings, path: Path) -> None:
    """Make plugin paths absolute, so that the saved config finds them from its run folder too."""
    plugins = settings.get("plugins")
    if plugins and isinstance(plugins.value, list):
        files = [
            str((path.parent / file).resolve()) if isinstance(file, str) else file for file in plugins.value
        ]
        settings["plugins"] = Setting(files, plugins.source)
