"""Config files: strict YAML with line numbers, and `base:` inheritance.

Plain scalars follow YAML 1.2, so `5e-05` is a number and only `true` and `false` are booleans:
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

from anynet_dist.config.errors import ConfigError, Problem, Setting, Source
from anynet_dist.config.options import options
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import not_a_file
from anynet_dist.system.shipped import CONFIG_PREFIX, shipped_config

Settings = dict[str, Setting]

_OPEN_FILES = (Path("/dev/fd"), Path("/proc/self/fd"))

MOST_BYTES = 2**20
MOST_VALUES = 10_000
"""Keys and values of a file, each alias counted as what it stands for."""
MOST_LEVELS = 20
_MOST_DIGITS = 20  # what is longer is beyond 64 bits, and in the thousands Python refuses to read it

_TAG = "tag:yaml.org,2002:"
_DIGITS = r"[0-9]+(?:_[0-9]+)*"  # as Python reads them: 10_000, but neither 10_ nor 1__0
_PLAIN = {
    "null": (r"~|null|Null|NULL|", [*"~nN", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    "int": (rf"[-+]?{_DIGITS}", [*"-+0123456789"]),
    "float": (rf"[-+]?(?:{_DIGITS}\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", [*"-+.0123456789"]),
}


class _Unbounded(yaml.MarkedYAMLError):
    """Valid YAML that would be too much to read."""


class _Loader(yaml.SafeLoader):
    """Refuses what would grow beyond all bounds, by nesting or when its aliases are expanded."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - PyYAML copies it before adding to it

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.level = 0
        self.sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark: Any = self.peek_event().start_mark
        is_alias = self.check_event(yaml.AliasEvent)
        if self.level == MOST_LEVELS:
            raise _Unbounded(problem=f"more than {MOST_LEVELS} levels deep", problem_mark=mark)
        self.level += 1
        node = super().compose_node(parent, index)
        self.level -= 1
        if is_alias and node not in self.sizes:  # not yet composed to its end
            raise _Unbounded(problem="an anchor contains an alias of itself", problem_mark=mark)
        if node is not None and self._size(node) > MOST_VALUES:
            problem = f"more than {MOST_VALUES:,} keys and values, aliases expanded"
            raise _Unbounded(problem=problem, problem_mark=mark)
        return node

    def _size(self, node: yaml.Node) -> int:
        """Keys and values in a node whose parts have been composed; a long string counts as several."""
        if node not in self.sizes:
            parts = node.value
            if isinstance(node, yaml.MappingNode):
                parts = [part for pair in node.value for part in pair]
            inside = len(parts) // 100 if isinstance(parts, str) else sum(self.sizes[part] for part in parts)
            self.sizes[node] = 1 + inside
        return self.sizes[node]


class PlainDumper(yaml.SafeDumper):
    """Quotes any string that this reader, or an ordinary YAML 1.1 one, would take for something else."""


for _name, (_pattern, _first) in _PLAIN.items():
    for _class in (_Loader, PlainDumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})$"), _first)


def read_config(path: Path, problems: list[Problem]) -> Settings:
    """The settings of a file over those of its bases, by dotted key; what can be read past joins `problems`.

    Raises ConfigError where a file cannot be read at all.
    """
    return _read(path, problems, (), {})


def read_settings(path: Path, problems: list[Problem]) -> Settings:
    """The settings of one file by dotted key, whatever the keys are; what can be read past joins `problems`.

    Raises ConfigError where the file cannot be read at all.
    """
    instead = None if path.exists() and is_handed_over(path) else not_a_file(path)
    if instead or not path.exists():
        raise ConfigError([Problem(str(path), instead or "there is no such file")])
    settings: Settings = {}
    root = _compose(path)
    if root is not None:
        _Reader(str(path), settings, problems).read(root)
    return settings


def merge(below: Settings, above: Settings) -> Settings:
    """The settings `above` over those `below` them: entries of a mapping join those below, but an empty one
    takes their place."""
    emptied = tuple(
        f"{key}."
        for key, setting in above.items()
        if setting.value is not None and key in options() and options()[key].is_mapping
    )
    kept = {key: setting for key, setting in below.items() if not key.startswith(emptied)}
    return kept | above


def parse_value(text: str) -> Any:
    """The value that `text` has in a config file; the text itself where it is no valid YAML."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _value(node)
    except yaml.YAMLError:
        return text


def _read(
    path: Path, problems: list[Problem], above: tuple[str, ...], done: dict[Path, Settings]
) -> Settings:
    """The settings of a file that is a base of those `above`; files that were `done` are not read again."""
    if path in done:
        return done[path]
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
            instead = not_a_file(base)
            raise _fatal(bases, f"'{base}' {instead}" if instead else f"there is no file '{base}'")
        if len(chain) == MOST_LEVELS:
            raise _fatal(bases, f"more than {MOST_LEVELS} files deep")
        settings = merge(settings, _read(base, problems, chain, done))
    done[path] = merge(settings, own)
    return done[path]


def _compose(path: Path) -> yaml.Node | None:
    try:
        return yaml.compose(_text_of(path), Loader=_Loader)
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot read it: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(str(path), "is not a text file in UTF-8")]) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        source = Source(file=str(path), line=mark.line + 1 if mark else 1)
        kind = "" if isinstance(error, _Unbounded) else "not valid YAML: "
        raise ConfigError([Problem("", f"{kind}{error.problem or error.context}", source)]) from error
    except yaml.YAMLError as error:
        raise ConfigError([Problem(str(path), f"not valid YAML: {str(error).splitlines()[0]}")]) from error


def is_handed_over(path: Path) -> bool:
    """Whether the shell gave an open pipe in place of a file: `anynet train <(command)`, or /dev/stdin."""
    return path.is_fifo() and (path == Path("/dev/stdin") or path.parent in _OPEN_FILES)


def _text_of(path: Path) -> str:
    with open(path, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ConfigError([Problem(str(path), f"is larger than {MOST_BYTES:,} bytes, so it is no config")])
    return data.decode("utf-8")


class _Reader:
    """Flattens the node tree of one file into settings by dotted key."""

    def __init__(self, file: str, settings: Settings, problems: list[Problem]) -> None:
        self.file, self.settings, self.problems = file, settings, problems
        self.lines: dict[str, int] = {}

    def read(self, root: yaml.Node) -> None:
        if root.tag != f"{_TAG}map" or not isinstance(root, yaml.MappingNode):
            self._problem("", "must be keys and values, such as 'optim:' with 'lr: 0.4' below it", root)
            return
        self._mapping(root, "")

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
        return int(text) if len(text) <= _MOST_DIGITS else text
    return text.lower() == "true" if tag == "bool" else None


def _base_paths(bases: Setting | None, path: Path, problems: list[Problem]) -> Iterator[Path]:
    if bases is None:
        return
    values = bases.value if isinstance(bases.value, list) else [bases.value]
    for value in values:
        if isinstance(value, str):
            yield _base_path(bases, path.parent, value)
        else:
            message = f"must be the path of a config file, or a list of them (got {value!r})"
            problems.append(Problem("base", message, bases.source))


def _base_path(bases: Setting, folder: Path, name: str) -> Path:
    """A file beside the one that names it, else the shipped config of that name."""
    local = Path(os.path.normpath(folder / name))
    if not name.startswith(CONFIG_PREFIX) and (os.path.lexists(local) or Path(name).is_absolute()):
        return local
    try:
        return shipped_config(name)
    except UserError as error:
        raise _fatal(bases, f"there is no file '{local}', and {error}") from None


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
