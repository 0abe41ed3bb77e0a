"""`anynet` with FSDP2 on CPUs, for tests: accelerate itself shards among GPUs only and is told otherwise."""

from __future__ import annotations

import sys

from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from anynet_dist.cli import run
from anynet_dist.data.batch_plan import BatchPlan
from anynet_dist.training.distributed import engine
from anynet_dist.training.distributed.fsdp import FullyShardedEngine

start_among_gpus = FullyShardedEngine.start


def start(self: FullyShardedEngine, precision: str, plan: BatchPlan) -> Accelerator:
    accelerator = start_among_gpus(self, precision, plan)
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    AcceleratorState._shared_state["distributed_type"] = DistributedType.FSDP
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)
    AcceleratorState._shared_state["fsdp_plugin"] = plugin
    return accelerator


if __name__ == "__main__":
    engine.fsdp_becomes_ddp = lambda config: False
    FullyShardedEngine.start = start  # type: ignore[method-assign]
    sys.exit(run())
