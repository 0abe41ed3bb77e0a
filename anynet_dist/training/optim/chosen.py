"""What a config chooses by name, with options that are passed on: checked against the signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from anynet_dist.config.errors import Problem
from anynet_dist.system.errors import nearest_name

Make = Callable[..., Any]


def parameters_of(make: Make) -> dict[str, inspect.Parameter]:
    """The arguments that can be passed by name."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: each for name, each in inspect.signature(make).parameters.items() if each.kind in by_name}


def wanted(make: Make, offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `offered` that `make` asks for by name."""
    names = parameters_of(make)
    return {name: value for name, value in offered.items() if name in names}


def option_problems(
    key: str,
    name: str,
    make: Make,
    given: Mapping[str, Any],
    *,
    passed: Collection[str] = (),
    elsewhere: Mapping[str, str] | None = None,
) -> Iterator[Problem]:
    """What is wrong with the options `given` under `key` for `make`, which goes by `name`.

    `passed` are the arguments that it gets without them, `elsewhere` the options of ours that set some.
    """
    instead = elsewhere or {}
    parameters = parameters_of(make)
    allowed = [parameter for parameter in parameters if parameter not in {*passed, *instead}]
    takes_any = any(each.kind is each.VAR_KEYWORD for each in inspect.signature(make).parameters.values())
    for option in given:
        if option in instead:
            yield Problem(f"{key}.{option}", f"set {instead[option]} in its place")
        elif option in passed:
            yield Problem(f"{key}.{option}", "is not for you to set: the run decides it")
        elif option not in allowed and not takes_any:
            nearest = nearest_name(option, allowed)
            hint = f"; did you mean '{nearest}'?" if nearest else ""
            takes = ", ".join(allowed) or "none"
            yield Problem(f"{key}.{option}", f"{name} has no such option{hint} (allowed: {takes})")
    for option in allowed:
        if parameters[option].default is inspect.Parameter.empty and option not in given:
            yield Problem(key, f"{name} needs '{option}', which has no default: set {key}.{option}")


def fitted(make: Make, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options as `make` takes them: YAML knows lists only, where its defaults are tuples."""
    parameters = parameters_of(make)
    return {name: _fitted(parameters.get(name), value) for name, value in given.items()}


def _fitted(parameter: inspect.Parameter | None, value: Any) -> Any:
    wants_tuple = parameter is not None and isinstance(parameter.default, tuple)
    return tuple(value) if wants_tuple and isinstance(value, list) else value
