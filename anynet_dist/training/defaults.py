"""What an option that is left out means where that depends on the run: learning rate and warm-up."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anynet_dist.config import Config
from anynet_dist.system.errors import UserError

logger = logging.getLogger(__name__)

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
    """The config with optim.lr and schedule.warmup_epochs filled in, each with its reason in the log.

    `before` are the options of a run that is resumed, which keeps its own. Raises UserError where the warm-up
    is longer than the run.
    """
    lr, warmup = config.optim.lr, config.schedule.warmup_epochs
    if warmup is None:
        warmup = before.get("schedule.warmup_epochs")
    if warmup is None:
        warmup = _warmup(config, steps_per_epoch, total_steps)
    if lr is None:
        lr = before.get("optim.lr")
    if lr is None and config.optim.name not in REFERENCE_LR:
        raise UserError(f"optim.lr is not set, and only {', '.join(REFERENCE_LR)} have a default")
    if lr is None:
        lr = reference_lr(config.optim.name, config.train.global_batch)
        rule = f"{REFERENCE_LR[config.optim.name]:g} at {REFERENCE_BATCH} images per step"
        logger.info("optim.lr %g: not set, so it follows train.global_batch (%s)", lr, rule)
    if config.schedule.name != "onecycle" and round(warmup * steps_per_epoch) > total_steps:
        raise UserError(
            f"schedule.warmup_epochs: {warmup:g} epochs are {round(warmup * steps_per_epoch)} steps, but the"
            f" whole run has {total_steps} (train.epochs, train.max_steps): shorten the warm-up"
        )
    return replace(
        config,
        optim=replace(config.optim, lr=float(lr)),
        schedule=replace(config.schedule, warmup_epochs=float(warmup)),
    )


def _warmup(config: Config, steps_per_epoch: int, total_steps: int) -> float:
    """Epochs of warm-up where none are set: none for a learning rate that somebody chose."""
    epochs = total_steps / steps_per_epoch
    if config.schedule.name == "onecycle":
        warmup = ONECYCLE_PEAK * epochs
        logger.info("schedule.warmup_epochs %g: not set, the peak comes after 30 %% of the run", warmup)
        return warmup
    if config.optim.lr is not None:
        return 0.0
    warmup = min(LONGEST_WARMUP, WARMUP_SHARE * epochs)
    logger.info("schedule.warmup_epochs %g: not set, a tenth of the run and at most 5 epochs", warmup)
    return warmup
