"""Which engine shares the work of training among the ranks: DDP, or what the launcher asks for instead."""

from __future__ import annotations

import logging
import os

from anynet_dist.config.schema import Config
from anynet_dist.system import distributed
from anynet_dist.system.errors import UserError
from anynet_dist.training.distributed import accelerator as devices
from anynet_dist.training.distributed.ddp import Engine

logger = logging.getLogger(__name__)

# What accelerate's launcher sets.
DEEPSPEED, FSDP = "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"


def choose_engine(config: Config) -> Engine:
    """The engine that the launcher asks for, by its environment variables. Raises UserError if it is none."""
    if _asks_for(DEEPSPEED):
        from anynet_dist.training.distributed.deepspeed import deepspeed_engine

        return deepspeed_engine(config)
    if not _asks_for(FSDP):
        return Engine(config)
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("the launcher asks for FSDP 1: set fsdp_version: 2, as launch/fsdp2.yaml does")
    if fsdp_becomes_ddp(config):
        if distributed.is_main():
            logger.warning("%s", _without_fsdp())
        forget_engine()
        return Engine(config)
    from anynet_dist.training.distributed.fsdp import FullyShardedEngine

    return FullyShardedEngine(config)


def _without_fsdp() -> str:
    if distributed.world_size() == 1:
        return (
            "the launcher asks for FSDP2, but with one process there is nothing to share: training without it"
        )
    return "FSDP2 needs a GPU for each process: without, accelerate trains with DDP"


def _asks_for(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"


def fsdp_becomes_ddp(config: Config) -> bool:
    """Whether accelerate silently does not shard: it does so only among several GPUs."""
    return devices.on_cpu(config) or distributed.world_size() == 1


def forget_engine() -> None:
    """Let accelerate run without an engine, although the launcher asks for one: evaluation needs none."""
    for variable in (DEEPSPEED, FSDP):
        os.environ.pop(variable, None)
