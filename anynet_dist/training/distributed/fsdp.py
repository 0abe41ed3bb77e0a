"""FSDP2: weights, gradients and optimizer state spread over the GPUs, by accelerate."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from anynet_dist.data.batch_plan import BatchPlan
from anynet_dist.training.distributed import accelerator as devices
from anynet_dist.training.distributed.ddp import (
    AutocastAccelerator,
    ShardedEngine,
    reject_ddp_only_options,
)


class FullyShardedEngine(ShardedEngine):
    """Trains with FSDP2, as the launcher's fsdp_config describes it.

    Weights stay fp32 and torch's autocast computes in bf16, so that batch norm keeps its precision.
    """

    name = "FSDP2"
    fused_optimizer = False  # torch's fused SGD has no sharding rule

    def start(self, precision: str, plan: BatchPlan) -> Accelerator:
        """As in Engine."""
        reject_ddp_only_options(self.config, self.name, precision)
        self.precision = precision
        self.accelerator = devices.build_accelerator(
            self.config,
            "fp32",
            plan.accumulation,
            kind=lambda **arguments: AutocastAccelerator(precision, **arguments),
            # From the launcher's variables; loading on rank 0 alone would need weights on the meta device.
            fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False),
        )
        return self.accelerator

    def _copy(self, network: nn.Module) -> nn.Module:
        trained = super()._copy(network)
        # Shards are cut from contiguous weights; images may be channels-last all the same.
        trained.to(memory_format=torch.contiguous_format)
        device = next(network.parameters()).device.type
        autocast = torch.autocast(device, torch.bfloat16, enabled=self.precision == "bf16")
        trained.forward = autocast(trained.forward)
        return trained

    def clip_gradients(self, limit: float | None) -> Tensor:
        """As in Engine."""
        norm = super().clip_gradients(limit)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _whole_parameters(self) -> Iterator[Tensor]:
        for parameter in self.trained.parameters():
            yield parameter.full_tensor()  # type: ignore[attr-defined]
