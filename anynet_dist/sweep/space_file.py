"""Space files: strict YAML, with the same errors as run configs: all at once, each with file and line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from anynet_dist.config.errors import ConfigError, Problem, Setting
from anynet_dist.config.options import options
from anynet_dist.config.yaml_reader import Settings, read_settings
from anynet_dist.sweep import distributions
from anynet_dist.sweep.distributions import Distribution, Grid
from anynet_dist.sweep.space import MEASURES, PER_STAGE, REGNET, Across, Bound, Parameter, Space
from anynet_dist.system.errors import UserError, nearest_name

KINDS: dict[str, Callable[..., Distribution]] = {
    "uniform": distributions.uniform,
    "log_uniform": distributions.log_uniform,
    "power_of_two": distributions.power_of_two,
    "power_of_two_or_log": distributions.power_of_two_or_log,
    "choice": distributions.choice,
}
NUMBERS = {"stages": 4, "stem_width": 32, "resolution": 224, "num_classes": 1000}
TEXTS = ("name", "config")
BOUND = ("least", "most", "most_per_flop")
ACROSS = ("each", "tied", "ordered")
DRAWN = {"num_blocks_per_stage", "num_channels", "regnet", "preset", "num_stages", "num_classes"}
"""Options of the model section that a space gives in other words."""

Entries = Mapping[str, Setting]


def read_space(path: Path) -> Space:
    """The space that a file describes. Raises ConfigError with every problem at once."""
    problems: list[Problem] = []
    reader = _Reader(read_settings(path, problems), problems)
    space = reader.space(path.stem)
    if problems:
        raise ConfigError(problems)
    return space


def config_of(path: Path) -> Path | None:
    """The run config that a space file names for its members, seen from the file's folder."""
    setting = read_settings(path, []).get("config")
    return None if setting is None else path.parent / str(setting.value)


class _Reader:
    """Goes through the settings of a space file and collects what is wrong with them."""

    def __init__(self, settings: Settings, problems: list[Problem]) -> None:
        self.settings, self.problems = settings, problems

    def space(self, name: str) -> Space:
        """The space; of no use where there are problems."""
        numbers, model, entries = dict(NUMBERS), dict[str, Any](), dict[str, dict[str, Setting]]()
        window: dict[str, dict[str, float]] = {}
        for key, setting in self.settings.items():
            section, _, rest = key.partition(".")
            with self._collected():
                if key in NUMBERS:
                    numbers[key] = _whole(key, setting)
                elif key in TEXTS:
                    name = _text(key, setting) if key == "name" else name
                elif section == "model" and rest:
                    model[rest] = _model_option(rest, setting)
                elif section == "window" and rest:
                    _add_bound(key, setting, window)
                elif section == "parameters" and rest:
                    # A parameter's name may itself be dotted; its `when` is a mapping.
                    found = re.fullmatch(r"(.+?)\.(when\.[^.]+|[^.]+)", rest)
                    parameter, attribute = found.groups() if found else (rest, "")
                    entries.setdefault(parameter, {})[attribute] = setting
                else:
                    raise _unknown("key", key, setting, [*NUMBERS, *TEXTS, "model", "window", "parameters"])
        parameters = []
        for parameter, its in entries.items():
            with self._collected():
                parameters.append(_parameter(parameter, its))
        bounds = {measure: Bound(**bound) for measure, bound in window.items()}
        space = Space(name=name, parameters=tuple(parameters), model=model, window=bounds, **numbers)
        self._check_together(space, entries)
        return space

    def _check_together(self, space: Space, entries: Mapping[str, Entries]) -> None:
        by_name = {parameter.name: parameter for parameter in space.parameters}
        for parameter in space.parameters:
            with self._collected():
                _check_among(parameter, by_name, entries[parameter.name])
                option = PER_STAGE.get(parameter.name, "")
                if option in space.model:
                    raise _fault(
                        f"model.{option}",
                        f"is drawn too, as parameters.{parameter.name}",
                        self.settings[f"model.{option}"],
                    )
        needed = ["depth", "width"]
        if any(name.startswith(REGNET) for name in entries):
            needed = [f"{REGNET}{name}" for name in ("w0", "wa", "wm", "depth", "group_width")]
        missing = [name for name in needed if name not in entries]
        if missing and not self.problems:
            source = next((setting.source for setting in self.settings.values()), None)
            self.problems.append(Problem("parameters", f"{', '.join(missing)} missing", source))

    @contextmanager
    def _collected(self) -> Iterator[None]:
        try:
            yield
        except ConfigError as error:
            self.problems += error.problems


def _parameter(name: str, entries: Entries) -> Parameter:
    per_stage = name in PER_STAGE
    if not per_stage and not name.startswith(REGNET) and name not in options():
        raise _unknown("parameter", f"parameters.{name}", _first(entries), [*PER_STAGE, *options()], name)
    across: Across | None = "each" if per_stage else None
    when: tuple[str, tuple[Any, ...]] | None = None
    kinds = [attribute for attribute in entries if attribute in KINDS]
    for attribute, setting in entries.items():
        key = f"parameters.{name}.{attribute}".rstrip(".")
        if attribute == "stages":
            if not per_stage or setting.value not in ACROSS:
                allowed = f"must be {', '.join(ACROSS)}" if per_stage else "belongs to parameters of stages"
                raise _fault(key, f"{allowed} (got {setting.value!r})", setting)
            across = cast(Across, setting.value)
        elif attribute.startswith("when."):
            values = setting.value if isinstance(setting.value, list) else [setting.value]
            when = (attribute.removeprefix("when."), tuple(values))
        elif attribute and attribute not in (*KINDS, "multiple_of"):
            raise _unknown("key", key, setting, [*KINDS, "multiple_of", "stages", "when"], attribute)
    if len(kinds) != 1:
        given = f"has {' and '.join(kinds)}" if kinds else "has no distribution"
        raise _fault(f"parameters.{name}", f"{given}: give one of {', '.join(KINDS)}", _first(entries))
    distribution = _distribution(name, kinds[0], entries)
    return Parameter(name=name, distribution=distribution, across=across, when=when)


def _distribution(name: str, kind: str, entries: Entries) -> Distribution:
    key, setting, multiple = f"parameters.{name}.{kind}", entries[kind], entries.get("multiple_of")
    value: Any = setting.value
    if kind == "choice":
        if not isinstance(value, list) or not value:
            raise _fault(key, f"must be a list of values (got {value!r})", setting)
        arguments: list[Any] = [value]
    else:
        arguments = list(_pair(key, setting))
    if multiple is None and kind == "power_of_two_or_log":
        raise _fault(key, "needs multiple_of", setting)
    if multiple is not None:
        if kind in ("choice", "power_of_two"):
            raise _fault(f"parameters.{name}.multiple_of", f"does not go with {kind}", multiple)
        arguments.append(_number(f"parameters.{name}.multiple_of", multiple))
    try:
        return KINDS[kind](*arguments)
    except UserError as error:
        raise _fault(key, str(error), setting) from None


def _check_among(parameter: Parameter, others: Mapping[str, Parameter], entries: Entries) -> None:
    """Raise ConfigError where a parameter does not go with the others."""
    key = f"parameters.{parameter.name}"
    if parameter.when:
        control = others.get(parameter.when[0])
        setting = entries[f"when.{parameter.when[0]}"]
        if control is None or control.across is None or parameter.across is None:
            raise _fault(f"{key}.when", f"'{parameter.when[0]}' is no parameter of stages here", setting)
        if parameter.across == "ordered":
            raise _fault(f"{key}.when", "does not go with 'stages: ordered'", setting)
        if isinstance(control.distribution, Grid):
            strange = [value for value in parameter.when[1] if value not in control.distribution.values]
            if strange:
                known = ", ".join(map(str, control.distribution.values))
                raise _fault(f"{key}.when", f"{control.name} is never {strange[0]!r} (but {known})", setting)
    distribution = parameter.distribution
    named = isinstance(distribution, Grid) and isinstance(distribution.values[0], str)
    if parameter.across == "ordered" and named:
        raise _fault(f"{key}.stages", "names have no order", entries["stages"])


def _model_option(name: str, setting: Setting) -> Any:
    known = [key.removeprefix("model.") for key in options() if key.startswith("model.")]
    if name in DRAWN:
        raise _fault(f"model.{name}", "comes from the space's own keys and parameters", setting)
    if name not in known:
        raise _unknown("option", f"model.{name}", setting, known, name)
    return setting.value


def _add_bound(key: str, setting: Setting, window: dict[str, dict[str, float]]) -> None:
    _, measure, *rest = key.split(".")
    if measure not in MEASURES:
        raise _unknown("measure", key, setting, MEASURES, measure)
    if not rest:
        least, most = _pair(key, setting)
        window[measure] = {"least": float(least), "most": float(most)}
    elif len(rest) > 1 or rest[0] not in BOUND:
        raise _unknown("key", key, setting, BOUND, rest[-1])
    else:
        window.setdefault(measure, {})[rest[0]] = float(_number(key, setting))


def _whole(key: str, setting: Setting) -> int:
    value = setting.value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _fault(key, f"must be an integer of at least 1 (got {value!r})", setting)
    return value


def _text(key: str, setting: Setting) -> str:
    if not isinstance(setting.value, str) or "/" in setting.value or not setting.value:
        raise _fault(key, f"must be a name without '/' (got {setting.value!r})", setting)
    return setting.value


def _number(key: str, setting: Setting) -> float:
    value = setting.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _fault(key, f"must be a number (got {value!r})", setting)
    return value


def _pair(key: str, setting: Setting) -> tuple[float, float]:
    value = setting.value
    if isinstance(value, list) and len(value) == 2:
        least, most = (_number(key, Setting(each, setting.source)) for each in value)
        if least <= most:
            return least, most
    raise _fault(key, f"must be two numbers, the lower one first (got {value!r})", setting)


def _unknown(
    kind: str, key: str, setting: Setting, known: Iterable[str], name: str | None = None
) -> ConfigError:
    known = list(known)
    nearest = nearest_name(name or key, known)
    hint = f"; did you mean '{nearest}'?" if nearest else ""
    allowed = f" (allowed: {', '.join(known)})" if len(known) < 20 else ""
    return _fault(key, f"unknown {kind}{hint}{allowed}", setting)


def _fault(key: str, message: str, setting: Setting) -> ConfigError:
    return ConfigError([Problem(key, message, setting.source)])


def _first(entries: Entries) -> Setting:
    return next(iter(entries.values()))
