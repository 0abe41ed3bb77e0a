"""The learning rate as a function of the optimizer updates done: nothing to save, nothing to drift.

A schedule is a function registered under a name, which makes the curve's shape after the warm-up:

    @register_schedule("mine")
    def mine(total_steps: int, power: float = 2.0) -> Schedule:
        return lambda step: (1 - step / total_steps) ** power

It asks by name for any of `steps_per_epoch` and `warmup_steps`; its other arguments come from
`schedule.options`. The linear rise of the warm-up is multiplied in, and `schedule.update: epoch` makes
steps of it, whatever the shape.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from anynet_dist.config.errors import Problem
from anynet_dist.config.schema import ScheduleConfig
from anynet_dist.system.errors import UserError
from anynet_dist.system.registry import Registry
from anynet_dist.training.optim.chosen import fitted, option_problems, wanted

Schedule = Callable[[int], float]
"""Updates done so far -> factor of the peak learning rate for the next update."""
MakeSchedule = Callable[..., Schedule]
Registered = TypeVar("Registered", bound=MakeSchedule)

SCHEDULES: Registry[MakeSchedule] = Registry(
    "schedule", first=("total_steps",), passed=("steps_per_epoch", "warmup_steps"), functions=True, free=True
)
FIELDS = {"cosine": ("final",), "multistep": ("milestones", "gamma"), "onecycle": ("final",)}
"""The options of ours that set arguments of ours."""


def register_schedule(name: str) -> Callable[[Registered], Registered]:
    """Register a function that makes a schedule under `name`."""
    return SCHEDULES.register(name)


@register_schedule("cosine")
def cosine(total_steps: int, final: float = 0.0) -> Schedule:
    """Half a period of Loshchilov and Hutter (2017), section 3, the warm-up multiplied in as in pycls."""

    def factor(step: int) -> float:
        half_period = 0.5 * (1 + math.cos(math.pi * step / total_steps))
        return final + (1 - final) * half_period

    return factor


@register_schedule("multistep")
def multistep(total_steps: int, steps_per_epoch: int, milestones: Sequence[float], gamma: float) -> Schedule:
    """Multiplies by gamma at each milestone, in epochs."""
    steps = [round(epoch * steps_per_epoch) for epoch in sorted(milestones)]
    return lambda step: gamma ** bisect_right(steps, step)


@register_schedule("onecycle")
def onecycle(total_steps: int, warmup_steps: int, final: float = 0.0) -> Schedule:
    """Rises linearly over the warm-up and falls linearly over the rest (Smith and Topin, 2018)."""

    def factor(step: int) -> float:
        left = (total_steps - step) / max(1, total_steps - warmup_steps)
        return final + (1 - final) * max(0.0, min(1.0, left))

    return factor


@register_schedule("constant")
def constant(total_steps: int) -> Schedule:
    """The peak, throughout."""
    return lambda step: 1.0


def schedule_problems(config: ScheduleConfig) -> Iterator[Problem]:
    """What is wrong with the schedule's name or options."""
    try:
        make = SCHEDULES.find(config.name)
    except UserError as error:
        yield Problem("schedule.name", str(error))
        return
    elsewhere = {field: f"schedule.{field}" for field in FIELDS.get(config.name, ())}
    passed = (*SCHEDULES.first, *SCHEDULES.passed)
    yield from option_problems(
        "schedule.options", config.name, make, config.options, passed=passed, elsewhere=elsewhere
    )


def build_schedule(config: ScheduleConfig, steps_per_epoch: int, total_steps: int) -> Schedule:
    """The schedule over `total_steps` updates. Raises UserError where its shape cannot be used."""
    warmup_steps = round((config.warmup_epochs or 0.0) * steps_per_epoch)
    shape = _build_shape(config, steps_per_epoch, warmup_steps, total_steps)
    every = steps_per_epoch if config.update == "epoch" else 1

    def warmup(step: int) -> float:
        done = min(1.0, step / warmup_steps) if warmup_steps else 1.0
        return config.warmup_start + (1 - config.warmup_start) * done

    def factor(step: int) -> float:
        step -= step % every
        return warmup(step) * shape(min(step, total_steps))

    return factor


def _build_shape(
    config: ScheduleConfig, steps_per_epoch: int, warmup_steps: int, total_steps: int
) -> Schedule:
    make = SCHEDULES.find(config.name)
    offered = {"steps_per_epoch": steps_per_epoch, "warmup_steps": warmup_steps}
    fields = {field: getattr(config, field) for field in FIELDS.get(config.name, ())}
    try:
        shape = make(total_steps, **wanted(make, offered), **fields, **fitted(make, config.options))
        factors = [shape(step) for step in (0, total_steps // 2, total_steps - 1)]
    except Exception as error:
        raise UserError(f"schedule.name: '{config.name}' fails: {type(error).__name__}: {error}") from error
    if not all(_is_factor(factor) for factor in factors):
        raise UserError(
            f"schedule.name: '{config.name}' must give factors of the learning rate, numbers >= 0"
            f" (got {', '.join(map(str, factors))})"
        )
    return shape


def _is_factor(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group, each to its own share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
