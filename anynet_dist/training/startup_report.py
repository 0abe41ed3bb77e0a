"""A hook that shows, after the first step, where the seconds of the start went (train.profile_startup)."""

from __future__ import annotations

import logging
from typing import Any

import torch

from anynet_dist.system.logging import LABEL_WIDTH
from anynet_dist.system.startup_clock import clock

logger = logging.getLogger(__name__)


class StartupReport:
    """Shows the parts of the start once, on rank 0; waits for the device, whose first step counts too."""

    def __init__(self) -> None:
        self.shown = False

    def __call__(self, trainer: Any) -> None:
        """Called with the Trainer after each step."""
        if self.shown:
            return
        self.shown = True
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        clock.done("first step")
        clock.divide("first step", {"first batch": trainer.meter.throughput.waited})
        if not trainer.accelerator.is_main_process:
            return
        logger.info("from the start of the process to the end of the first step:")
        for part, seconds in clock.lines():
            text = f"{seconds:.2f} s"
            logger.info("%s %s", f"  {part}".ljust(LABEL_WIDTH), text, extra={"cells": (part, text)})
