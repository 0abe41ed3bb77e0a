"""What an option that is left out means where that depends on the run: learning rate and warm-up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anynet_dist.config import Config
from anynet_dist.system.choices import note_choice
from anynet_dist.system.errors import UserError

REFERENCE_BATCH = 512
REFERENCE_LR = {"sgd": 0.1, "adam": 5e-4, "adamw": 5e-4}
"""Learning rates that train at the reference batch."""
LARGEST_BATCH = 8192
"""Up to here the learning rate may follow the batch (Goyal et al., 2017, figure 1)."""
WARMUP_SHARE, LONGEST_WARMUP = 0.1, 5.0
"""Fraction of the run, and epochs at most (Goyal et al., 2017, section 2.2)."""
ONECYCLE_PEAK = 0.3


def reference_lr(optimizer: str, global_batch: int) -> float:
    """The learning rate for a global batch, by the linear rule of Goyal et al. (2017), section 2.1."""
    return REFERENCE_LR[optimizer] * min(global_batch, LARGEST_BATCH) / REFERENCE_BATCH


def choose_defaults(
    config: Config, steps_per_epoch: int, total_steps: int, before: Mapping[str, Any]
) -> Config:
    """The config with optim.lr and schedule.warmup_epochs filled in, each reported with its reason.

    `before` are the options of a run that is resumed, which keeps its own. Raises UserError where the warm-up
    is longer than the run.
    """
    lr, lr_reason = _learning_rate(config, before)
    warmup, warmup_reason = _warmup(config, steps_per_epoch, total_steps, before)
    if config.schedule.name != "onecycle" and round(warmup * steps_per_epoch) > total_steps:
        raise UserError(
            f"schedule.warmup_epochs: {warmup:g} epochs are {round(warmup * steps_per_epoch)} steps, but the"
            f" whole run has {total_steps} (train.epochs, train.max_steps): shorten the warm-up"
        )
    note_choice("learning rate", f"{lr:g}", lr_reason)
    steps = f"{warmup:g} epochs ({round(warmup * steps_per_epoch):,} steps) of warm-up"
    note_choice("schedule", f"{config.schedule.name}, {steps if warmup else 'no warm-up'}", warmup_reason)
    return replace(
        config,
        optim=replace(config.optim, lr=float(lr)),
        schedule=replace(config.schedule, warmup_epochs=float(warmup)),
    )


def _learning_rate(config: Config, before: Mapping[str, Any]) -> tuple[float, str]:
    """The peak learning rate, and why."""
    if config.optim.lr is not None:
        return config.optim.lr, "as configured"
    if before.get("optim.lr") is not None:
        return before["optim.lr"], "as the run was started with"
    name, batch = config.optim.name, config.train.global_batch
    if name not in REFERENCE_LR:
        raise UserError(f"optim.lr is not set, and only {', '.join(REFERENCE_LR)} have a default")
    rule = f"{REFERENCE_LR[name]:g} at {REFERENCE_BATCH} images per step"
    return reference_lr(name, batch), f"optim.lr is not set, so it follows train.global_batch ({rule})"


def _warmup(
    config: Config, steps_per_epoch: int, total_steps: int, before: Mapping[str, Any]
) -> tuple[float, str]:
    """Epochs of warm-up, and why; where none are set, none for a learning rate that somebody chose."""
    if config.schedule.warmup_epochs is not None:
        return config.schedule.warmup_epochs, "as configured"
    if before.get("schedule.warmup_epochs") is not None:
        return before["schedule.warmup_epochs"], "as the run was started with"
    epochs = total_steps / steps_per_epoch
    if config.schedule.name == "onecycle":
        return (
            ONECYCLE_PEAK * epochs,
            "schedule.warmup_epochs is not set, the peak comes after 30 % of the run",
        )
    if config.optim.lr is not None:
        return 0.0, "optim.lr is set and schedule.warmup_epochs is not"
    warmup = min(LONGEST_WARMUP, WARMUP_SHARE * epochs)
    return warmup, "schedule.warmup_epochs is not set: a tenth of the run, at most 5 epochs"
