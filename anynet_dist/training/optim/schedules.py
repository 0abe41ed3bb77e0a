"""The learning rate as a function of the optimizer updates done: nothing to save, nothing to drift."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable

import torch

from anynet_dist.config.schema import ScheduleConfig

Schedule = Callable[[int], float]
"""Updates done so far -> factor of the peak learning rate for the next update."""


def build_schedule(config: ScheduleConfig, steps_per_epoch: int, total_steps: int) -> Schedule:
    """The schedule of `config` over `total_steps` updates.

    Cosine is the half period of Loshchilov and Hutter (2017), section 3, with the warm-up multiplied in
    as pycls does; multistep multiplies by gamma at each milestone; onecycle rises linearly over the
    warm-up and falls linearly over the rest (Smith and Topin, 2018).
    """
    warmup_steps = round((config.warmup_epochs or 0.0) * steps_per_epoch)
    milestones = [round(epoch * steps_per_epoch) for epoch in sorted(config.milestones)]

    def warmup(step: int) -> float:
        done = min(1.0, step / warmup_steps) if warmup_steps else 1.0
        return config.warmup_start + (1 - config.warmup_start) * done

    def cosine(step: int) -> float:
        half_period = 0.5 * (1 + math.cos(math.pi * step / total_steps))
        return config.final + (1 - config.final) * half_period

    def decay(step: int) -> float:
        left = (total_steps - step) / max(1, total_steps - warmup_steps)
        return config.final + (1 - config.final) * max(0.0, min(1.0, left))

    shapes: dict[str, Schedule] = {
        "cosine": cosine,
        "multistep": lambda step: config.gamma ** bisect_right(milestones, step),
        "onecycle": decay,
        "constant": lambda step: 1.0,
    }
    shape = shapes[config.name]
    every = steps_per_epoch if config.update == "epoch" else 1

    def factor(step: int) -> float:
        step -= step % every
        return warmup(step) * shape(min(step, total_steps))

    return factor


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group, each to its own share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
