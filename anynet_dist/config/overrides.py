"""Overrides on the command line: `--optim.lr 0.4 --model.strides 1 2 2 2 --data.augment.no-flip`.

Each becomes a setting like one from a file, so that the same rules check it. Names may be written with
`_` as in the files or with `-`; `None` puts an option back to its automatic value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from anynet_dist.config.errors import Problem, Setting, Source
from anynet_dist.config.options import Option, nearest_key, option_of, options, sections
from anynet_dist.config.yaml_reader import Settings, merge, parse_value

ALIASES = {"resume": "run.resume", "allow_config_change": "run.allow_config_change"}


def read_overrides(words: Sequence[str], problems: list[Problem]) -> Settings:
    """The settings in the words of a command line, by dotted key; an option's last value counts."""
    settings: Settings = {}
    for flag, values in _flags(words, problems):
        name = flag.removeprefix("--").replace("-", "_")
        key, switched_off = _option_key(ALIASES.get(name, name))
        source = Source(flag=flag)
        if key is None:
            problems.append(Problem(name, _unknown(name), source))
            continue
        try:
            value = _switch_off(values) if switched_off else _value(key, values)
            settings = merge(settings, _settings(key, value, source))
        except ValueError as error:
            problems.append(Problem(key, str(error), source))
    return settings


def _flags(words: Sequence[str], problems: list[Problem]) -> Iterator[tuple[str, list[str]]]:
    flag, values = "", list[str]()
    for word in words:
        if re.match(r"--?[a-zA-Z]", word):
            if flag:
                yield flag, values
            flag, has_value, value = word.partition("=")
            values = [value] if has_value else []
        elif flag:
            values.append(word)
        else:
            problems.append(Problem(word, "unexpected; options look like --optim.lr 0.4", Source(flag=word)))
    if flag:
        yield flag, values


def _option_key(name: str) -> tuple[str | None, bool]:
    """The key of an option's name and whether the name switches it off, as `data.augment.no_flip` does."""
    if option_of(name):
        return name, False
    section, _, last = name.rpartition(".")
    key = f"{section}.{last.removeprefix('no_')}"
    if last.startswith("no_") and key in options() and options()[key].is_switch:
        return key, True
    return None, False


def _unknown(name: str) -> str:
    if name in sections():
        inside = [f"--{key}" for key in options() if key.startswith(f"{name}.")]
        return f"is a section; set what is in it: {', '.join(inside)}"
    nearest = nearest_key(name)
    return "unknown option" + (
        f"; did you mean '--{nearest}'?" if nearest else "; see --help for all of them"
    )


def _switch_off(values: list[str]) -> bool:
    if values:
        raise ValueError(f"takes no value (got '{' '.join(values)}')")
    return False


def _settings(key: str, value: Any, source: Source) -> Settings:
    """The setting of a value; of a mapping as a whole, itself empty and then its entries."""
    if key in options() and options()[key].is_mapping and value is None:
        value = {}
    if not isinstance(value, dict):
        return {key: Setting(value, source)}
    settings: Settings = {key: Setting({}, source)}
    for name, inner in value.items():
        settings |= _settings(f"{key}.{name}", inner, source)
    return settings


def _value(key: str, values: list[str]) -> Any:
    if key not in options():  # in a mapping: as in a file
        if not values:
            raise ValueError("needs a value")
        items = [parse_value(value) for value in values]
        return items[0] if len(items) == 1 else items
    return _option_value(options()[key], values)


def _option_value(option: Option, values: list[str]) -> Any:
    if not values and option.is_switch:
        return True
    if not values and not option.takes_list:
        raise ValueError(f"needs a value: {option.expected}")
    if values == ["None"] and (NoneType in option.alternatives or option.is_mapping):
        return None
    items = [value if option.takes_string else parse_value(value) for value in values]
    if option.key == "plugins":
        return [str(Path(item).resolve()) for item in items]
    single = len(items) == 1 and (option.takes_one or isinstance(items[0], list))
    return items[0] if single else items
