"""From a config file and command-line overrides to a checked Config that knows where its values come from."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from anynet_dist.config.errors import ConfigError, Problem, Source, shorten
from anynet_dist.config.options import Option, nearest_key, option_of, options, sections
from anynet_dist.config.overrides import read_overrides
from anynet_dist.config.raw_bytes import hide, restore
from anynet_dist.config.rules import conflicts, without_effect
from anynet_dist.config.schema import Config
from anynet_dist.config.yaml_reader import Settings, is_handed_over, merge, read_config
from anynet_dist.system.errors import nearest_name
from anynet_dist.system.files import not_a_file
from anynet_dist.system.redaction import MARK, is_redacted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedConfig:
    """A checked config, the file it was read from, and for each value that was set, by dotted key, where."""

    config: Config
    path: Path
    sources: dict[str, Source]


def load_config(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), only_to_look: bool = False
) -> LoadedConfig:
    """Read a config file with its bases, put the command line's `overrides` on top and check the whole.

    Raises ConfigError with every problem at once. Options that were set but have no effect are logged. A
    value whose credentials were removed, as in a run's own config, is refused unless it is `only_to_look`.
    """
    path = Path(path)
    instead = None if is_handed_over(path) else not_a_file(path)
    if instead or not path.exists():
        raise ConfigError([Problem(str(path), instead or _no_file(overrides))])
    problems: list[Problem] = []
    settings = merge(read_config(path, problems), read_overrides(overrides, problems))
    settings = _known_settings(settings, problems)
    config = _validate(settings, problems)
    if not only_to_look:
        problems += _without_credentials(settings)
    if problems:
        raise ConfigError(problems)
    for key, reason in without_effect(config, _chosen(settings)):
        logger.warning("%s has no effect: %s (%s)", key, reason, settings[key].source)
    return LoadedConfig(config, path, {key: setting.source for key, setting in settings.items()})


def _no_file(overrides: Sequence[str]) -> str:
    misplaced = next((word for word in overrides if word.endswith((".yaml", ".yml"))), None)
    return "there is no such config file" + (f"; write '{misplaced}' before the options" if misplaced else "")


def _known_settings(settings: Settings, problems: list[Problem]) -> Settings:
    known: Settings = {}
    for key, setting in settings.items():
        if key in options() and options()[key].is_mapping and setting.value is None:
            continue  # left empty, as a section may be
        if option_of(key):
            known[key] = setting
        elif key not in sections():
            problems.append(Problem(key, _unknown_key(key), setting.source))
        elif setting.value not in (None, {}):  # a section left empty, e.g. with all its lines commented out
            got = shorten(repr(setting.value))
            problems.append(Problem(key, f"is a section of options (got {got})", setting.source))
    return known


def _without_credentials(settings: Settings) -> Iterator[Problem]:
    """The values of a saved config that cannot be used as they are."""
    for key, setting in settings.items():
        if is_redacted(setting.value):
            message = (
                f"its credentials were removed when it was saved ({MARK} stands in their place): give the"
                f" whole value again on the command line, --{key} VALUE (got {setting.value!r})"
            )
            yield Problem(key, message, setting.source)


def _unknown_key(key: str) -> str:
    nearest = nearest_key(key)
    return "unknown key" + (f"; did you mean '{nearest}'?" if nearest else "")


def _validate(settings: Settings, problems: list[Problem]) -> Config:
    """The config, with defaults for invalid values so that the rules between the others can be checked."""
    invalid: set[str] = set()
    try:
        config = _from_settings(settings)
    except ValidationError as error:
        invalid = {_option_at(details["loc"]) for details in error.errors(include_url=False)}
        problems += [_invalid_value(options()[key], settings) for key in settings if key in invalid]
        valid = {key: setting for key, setting in settings.items() if option_of(key) not in invalid}
        config = _from_settings(valid)
    for keys, message in conflicts(config):
        if invalid.isdisjoint(keys):
            key = next((key for key in keys if key in settings), keys[0])
            problems.append(Problem(key, message, settings[key].source if key in settings else None))
    return config


@cache
def _adapter() -> TypeAdapter[Config]:
    return TypeAdapter(Config)


def _from_settings(settings: Settings) -> Config:
    tree: dict[str, Any] = {}
    for key, setting in settings.items():
        *path, name = key.split(".")
        section = tree
        for part in path:
            if not isinstance(section.get(part), dict):
                section[part] = {}
            section = section[part]
        section[name] = setting.value
    # JSON has exactly the types of our files. Pydantic's strict mode for it takes a list for a tuple and an
    # int for a float, but neither "3" nor 3.0 for an int.
    hidden = hide(tree)
    config = _adapter().validate_json(json.dumps(hidden), strict=True)
    return config if hidden == tree else restore(config)


def _option_at(location: Sequence[int | str]) -> str:
    """The option an error lies in; pydantic's location also names the item and the member of a union."""
    starts = (".".join(map(str, location[:end])) for end in range(1, len(location) + 1))
    return next(start for start in starts if start in options())


def _invalid_value(option: Option, settings: Settings) -> Problem:
    value, source = settings[option.key].value, settings[option.key].source
    got = shorten(repr(value))
    return Problem(option.key, f"must be {option.expected}{_hint(option, value)} (got {got})", source)


def _hint(option: Option, value: object) -> str:
    if option.key == "train.precision" and str(value).lower() in (
        "false",
        "no",
        "off",
        "none",
        "float32",
        "32",
    ):
        return "; plain single precision is called fp32"
    if option.choices and isinstance(value, str):
        nearest = nearest_name(value, option.choices)
        return f"; did you mean '{nearest}'?" if nearest else ""
    if str in option.alternatives and isinstance(value, int | float):
        return ", so put it in quotes"
    return ""


def _chosen(settings: Settings) -> Collection[str]:
    """The options somebody chose; of a saved config, which names all, those that differ from the default."""
    if not options().keys() <= {option_of(key) for key in settings}:
        return settings.keys()
    defaults = {key: _plain(option.default) for key, option in options().items()}
    return {key for key, setting in settings.items() if setting.value != defaults.get(key)}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
