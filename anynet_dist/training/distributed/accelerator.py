"""Device and precision: what was chosen and why."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DDPCommunicationHookType,
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    TorchDynamoPlugin,
)

from anynet_dist.config.schema import Config, SpeedConfig
from anynet_dist.system import distributed
from anynet_dist.system.errors import UserError
from anynet_dist.system.ranges import Precision
from anynet_dist.training.distributed import rendezvous
from anynet_dist.training.distributed.launcher import launcher_wants_cpu, put_aside

logger = logging.getLogger(__name__)

ACCELERATE_NAMES = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
DDP_OPTIONS = ("gradient_bucket_view", "gradient_dtype", "static_graph")
COMM_HOOKS = {
    "fp32": DDPCommunicationHookType.NO,
    "bf16": DDPCommunicationHookType.BF16,
    "fp16": DDPCommunicationHookType.FP16,
}


def on_cpu(config: Config) -> bool:
    """Whether the run computes on the CPU: because it or its launcher was asked to, or because there is
    nothing else."""
    return config.run.cpu or launcher_wants_cpu() or not torch.accelerator.is_available()


def computes_in_bf16(cpu: bool) -> bool:
    """Whether the CPU, or the GPU, has bf16 arithmetic; without it bf16 is emulated."""
    if not cpu:
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16") or features.get("bf16"))


def choose_precision(config: Config) -> tuple[Precision, str]:
    """`fp32`, `bf16` or `fp16`, and the reason. Raises UserError where the device cannot do it."""
    asked, cpu = config.train.precision, on_cpu(config)
    launcher = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower() or "no"
    if asked == "fp16" and cpu:
        raise UserError(
            "train.precision: fp16 needs a GPU, where its gradients can be scaled; use bf16 or fp32 on a CPU"
        )
    if asked != "auto":
        if launcher not in ("no", ACCELERATE_NAMES[asked]):
            logger.warning(
                "the launcher asks for %s, train.precision for %s: the config decides", launcher, asked
            )
        return asked, "as configured"
    if launcher in ("bf16", "fp16") and not (launcher == "fp16" and cpu):
        return cast(Precision, launcher), "as the launcher asks"
    if launcher != "no":
        logger.warning("the launcher asks for %s, which this run does not compute in", launcher)
    device = "CPU" if cpu else "GPU"
    if computes_in_bf16(cpu):
        return "bf16", f"this {device} computes in it"
    return "fp32", f"this {device} has no bf16 arithmetic"


def connect(config: Config, backend: str | None = None, cpu: bool | None = None) -> None:
    """Let the processes of the run find each other; from here on they can exchange objects.

    `backend` and `cpu` are what an engine other than DDP needs (see ddp.py). Raises UserError where the
    launcher's environment variables are not those of one launcher, or accelerate sees something else.
    """
    distributed.check_launcher()
    put_aside()
    rank, world_size = distributed.rank(), distributed.world_size()
    meeting = rendezvous.arguments() | ({"backend": backend} if backend else {})
    timeout = timedelta(minutes=config.run.timeout)
    state = PartialState(cpu=on_cpu(config) if cpu is None else cpu, timeout=timeout, **meeting)
    _check_world(state, rank, world_size)


def build_accelerator(
    config: Config,
    precision: str,
    accumulation: int,
    kind: Callable[..., Accelerator] = Accelerator,
    **engine: Any,
) -> Accelerator:
    """The Accelerator of a run; connects its processes unless that was done.

    Our loaders always hold all micro-batches of a global batch, so gradients are synchronised by count
    alone and nothing is carried over the end of an epoch. Batch-norm buffers are averaged before
    evaluation, so DDP need not broadcast them at each step. `kind` and `engine` are what an engine other
    than DDP needs. Raises UserError as `connect` does.
    """
    connect(config)
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if config.train.deterministic != torch.are_deterministic_algorithms_enabled():
        # Imports torch's compiler, which takes seconds.
        torch.use_deterministic_algorithms(config.train.deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = not config.train.deterministic
    arguments: dict[str, Any] = {
        "cpu": on_cpu(config),
        "mixed_precision": ACCELERATE_NAMES[precision],
        "gradient_accumulation_plugin": GradientAccumulationPlugin(
            num_steps=accumulation, sync_with_dataloader=False
        ),
        "dynamo_plugin": TorchDynamoPlugin(backend="no"),  # compilation.py compiles the network itself
        "kwargs_handlers": [_ddp_arguments(config.speed, accumulation)],
    }
    return kind(**arguments | engine)


def set_for_ddp(speed: SpeedConfig) -> list[str]:
    """The options of how DDP sends gradients that are not as by default."""
    usual = SpeedConfig()
    return [f"speed.{name}" for name in DDP_OPTIONS if getattr(speed, name) != getattr(usual, name)]


def _ddp_arguments(speed: SpeedConfig, accumulation: int) -> DistributedDataParallelKwargs:
    """What DDP is made with. Raises UserError for a graph that cannot be static."""
    if speed.static_graph and accumulation > 1:
        raise UserError(
            f"speed.static_graph: does not go with gradients that are accumulated over {accumulation}"
            " micro-batches (train.max_device_batch)"
        )
    if distributed.world_size() == 1:
        for option in set_for_ddp(speed):
            logger.info("%s has no effect: one process sends no gradients", option)
    return DistributedDataParallelKwargs(
        broadcast_buffers=False,
        gradient_as_bucket_view=speed.gradient_bucket_view,
        static_graph=speed.static_graph,
        comm_hook=COMM_HOOKS[speed.gradient_dtype],
    )


def _check_world(state: PartialState, rank: int, world_size: int) -> None:
    """Raise UserError where accelerate sees other processes than the environment: each would train alone."""
    if (state.process_index, state.num_processes) != (rank, world_size):
        raise UserError(
            f"the environment says rank {rank} of {world_size} processes (RANK, WORLD_SIZE), but accelerate"
            f" makes this rank {state.process_index} of {state.num_processes}:"
            f" {distributed.REMEDY}"
        )


def describe_devices(accelerator: Accelerator) -> str:
    """World size, device and backend, for the start-up banner."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    state = accelerator.state
    backend = f", {state.backend}" if state.num_processes > 1 else ""
    machines = distributed.world_size() // max(1, distributed.local_world_size())
    spread = f" on {machines} machines" if machines > 1 else ""
    return f"world size {state.num_processes} ({name}{backend}{spread})"
