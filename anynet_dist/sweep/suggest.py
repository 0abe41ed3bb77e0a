"""The parameters of a space, as Optuna is asked for them."""

from __future__ import annotations

from typing import Any, Protocol

from anynet_dist.sweep.distributions import Distribution, Interval, Value
from anynet_dist.sweep.space import Draw, Parameter, Space
from anynet_dist.system.errors import UserError


class Suggester(Protocol):
    """What a draw needs of an Optuna trial."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number, both bounds included."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A real number."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of the choices."""


def suggested(space: Space, trial: Suggester) -> Draw:
    """The draw that a trial stands for: the same one each time it is asked.

    It keeps what the space promises by the way it is made: ordered values are sorted, and a conditional one
    is asked for only where its condition holds. Raises UserError where conditions form a circle.
    """
    draw: Draw = {}
    waiting = list(space.parameters)
    while waiting:
        ready = [each for each in waiting if each.when is None or each.when[0] in draw]
        if not ready:
            names = ", ".join(each.name for each in waiting)
            raise UserError(f"{space.name}: the conditions ('when') of {names} depend on each other")
        for parameter in ready:
            draw[parameter.name] = _values(parameter, draw, space.stages, trial)
        waiting = [each for each in waiting if each not in ready]
    return {parameter.name: draw[parameter.name] for parameter in space.parameters}


def _values(parameter: Parameter, draw: Draw, stages: int, trial: Suggester) -> tuple[Any, ...]:
    """One value, or one for each stage; None in the stages where the condition does not hold."""
    number = parameter.draws(stages)
    held = _held(parameter, draw, number)
    if number == 1:
        value = _one(parameter.name, parameter.distribution, trial) if any(held) else None
        return tuple(value if each else None for each in held)
    values = [
        _one(f"{parameter.name}{stage}", parameter.distribution, trial) if each else None
        for stage, each in enumerate(held, 1)
    ]
    # Ordered ones have no condition, see the space's reader.
    return tuple(sorted(values)) if parameter.across == "ordered" else tuple(values)


def _held(parameter: Parameter, draw: Draw, number: int) -> list[bool]:
    """Where the condition of a parameter holds."""
    if parameter.when is None:
        return [True] * number
    control, wanted = parameter.when
    held = [value in wanted for value in draw[control]]
    return held * number if len(held) == 1 else held


def _one(name: str, distribution: Distribution, trial: Suggester) -> Value:
    """A number of a grid is asked for by its place among the sorted values, so that near means alike."""
    if isinstance(distribution, Interval):
        return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.logarithmic)
    values = distribution.values
    if len(values) == 1:
        return values[0]
    if any(isinstance(value, str) for value in values):
        chosen: Value = trial.suggest_categorical(name, values)
        return chosen
    numbers = sorted(float(value) if isinstance(value, str) else value for value in values)
    return numbers[trial.suggest_int(name, 0, len(numbers) - 1)]
