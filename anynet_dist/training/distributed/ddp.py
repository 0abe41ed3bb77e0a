"""Data-parallel training with DDP, and what the engines that shard the network share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from anynet_dist.config.schema import Config, SpeedConfig
from anynet_dist.data.batch_plan import BatchPlan
from anynet_dist.system.errors import UserError
from anynet_dist.training.distributed import accelerator as devices
from anynet_dist.training.optim.optimizers import ELEMENTWISE
from anynet_dist.training.resilience.nonfinite import gradient_norm

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


class Engine:
    """Data parallelism with all of the network on each rank (DDP), as a single process has it too.

    Evaluation, the moving average and checkpoints use `network`, the whole network under its own names.
    An engine that trains something else, say shards, keeps both in step with `collect`.
    """

    name = "DDP"
    fused_optimizer = True
    """Whether torch's fused kernels can update what the engine gives the optimizer."""
    network: nn.Module
    trained: nn.Module
    """The module whose layers train: `network` itself where all of it is on each rank."""
    accelerator: Accelerator

    def __init__(self, config: Config) -> None:
        self.config = config

    def connect(self) -> None:
        """Let the processes find each other. Raises UserError where the engine cannot run on this machine."""
        devices.connect(self.config)

    def start(self, precision: str, plan: BatchPlan) -> Accelerator:
        """The accelerator of the connected processes. Raises UserError where the config asks for what the
        engine does not do."""
        self.accelerator = devices.build_accelerator(self.config, precision, plan.accumulation)
        return self.accelerator

    def prepare(self, network: nn.Module, make_optimizer: MakeOptimizer) -> tuple[nn.Module, Any]:
        """What to call in training, and its optimizer."""
        self.network = self.trained = network
        model, optimizer = self.accelerator.prepare(network, make_optimizer(network))
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        return model, optimizer

    def can_fuse(self, speed: SpeedConfig) -> bool:
        """Whether the optimizer's step is to be one kernel, where torch has one.

        Not under a gradient scaler: it cannot see that the fused step was skipped, and the learning rate
        would run ahead.
        """
        return speed.fused_optimizer and self.accelerator.scaler is None and self.fused_optimizer

    def collect(self) -> None:
        """Bring the weights of `network` up to date with what is being trained; called on every rank."""

    def clip_gradients(self, limit: float | None) -> Tensor:
        """The norm of all gradients together, scaled down to at most `limit`."""
        if limit:
            return self.accelerator.clip_grad_norm_(self.parameters, limit)
        return gradient_norm(self.parameters)

    def check_checkpoint(self, made_by: str, world_size: int) -> None:
        """Raise UserError where a checkpoint of another engine, or of other processes, cannot be resumed."""
        if made_by != self.name:
            raise UserError(
                f"the checkpoint's optimizer state is {made_by}'s and does not fit {self.name}: launch as"
                " then, or start a new run from its weights with --model.pretrained"
            )


class ShardedEngine(Engine, ABC):
    """An engine that trains a copy of the network whose weights are spread over the ranks.

    `network` stays whole: its batch-norm statistics are the copy's own tensors, which no engine shards, and
    `collect` gathers the weights.
    """

    def prepare(self, network: nn.Module, make_optimizer: MakeOptimizer) -> tuple[nn.Module, Any]:
        """As in Engine."""
        model, optimizer = super().prepare(self._copy(network), make_optimizer)
        self.network = network
        share_buffers(self.trained, network)
        return model, optimizer

    def _copy(self, network: nn.Module) -> nn.Module:
        return deepcopy(network)

    @torch.no_grad()
    def collect(self) -> None:
        """Gather the weights; every rank gets all of them."""
        for whole, value in zip(self.network.parameters(), self._whole_parameters(), strict=True):
            whole.copy_(value)

    @abstractmethod
    def _whole_parameters(self) -> Iterator[Tensor]:
        """Each parameter of the copy as a whole, in order."""


def share_buffers(source: nn.Module, target: nn.Module) -> None:
    """Let the buffers of `target` be those of `source`, a network of the same layers."""
    for name, module in source.named_modules():
        target.get_submodule(name)._buffers.update(module._buffers)


class AutocastAccelerator(Accelerator):
    """An Accelerator whose `autocast` is torch's.

    Where an engine of its own holds the weights, accelerate is given fp32 as the precision: it would
    cast all weights to 16 bits, batch norm's among them, but not batch norm's statistics.
    """

    def __init__(self, precision: str, **arguments: Any) -> None:
        self.precision = precision
        super().__init__(**arguments)

    @contextmanager
    def autocast(self, autocast_handler: Any = None) -> Iterator[None]:
        """Run the block in the run's precision."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            yield

    @property
    def optimizer_step_was_skipped(self) -> bool:
        """No: there is no gradient scaler, and a step that is not finite counts among the bad ones."""
        return False


def reject_ddp_only_options(config: Config, engine: str, precision: str) -> None:
    """Raise UserError for options that the other engines cannot follow."""
    if precision == "fp16":
        raise UserError(f"train.precision: {engine} trains in bf16 or fp32; fp16 needs DDP")
    if config.train.compile not in ("off", "auto"):
        raise UserError(f"train.compile: goes with DDP only, not with {engine}")
    if options := devices.set_for_ddp(config.speed):
        raise UserError(f"{', '.join(options)}: with DDP only, not with {engine}")
    if config.train.activation_checkpointing and engine.startswith("DeepSpeed"):
        raise UserError(f"train.activation_checkpointing: goes with DDP and FSDP2 only, not with {engine}")
    if config.optim.name not in ELEMENTWISE:
        raise UserError(
            f"optim.name: {engine} cuts weights into shards, so that only optimizers that update each weight"
            f" by its own gradients alone can be used: {', '.join(sorted(ELEMENTWISE))}"
            f" (got '{config.optim.name}'); take another one, or DDP"
        )
