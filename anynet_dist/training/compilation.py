"""torch.compile: what is compiled and why, what later runs find of it, and how ranks share the work."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from anynet_dist.config.schema import Config
from anynet_dist.models.anynet import AnyNet
from anynet_dist.models.complexity import network_complexity
from anynet_dist.models.spec import NetworkSpec
from anynet_dist.runs.progress import RunContext
from anynet_dist.system.cache import cache_folder
from anynet_dist.system.errors import UserError
from anynet_dist.training.distributed.accelerator import on_cpu
from anynet_dist.training.distributed.rank_zero import rank_zero_decides

logger = logging.getLogger(__name__)

WORTH_IT = {"cpu": 3e14, "cuda": 1e17}
"""Multiply-adds of a run's forward and backward passes from which on `auto` compiles: about an hour on two
CPU cores, half an hour on an H100. Compiling takes one to two minutes."""
TORCH_MODES = {"reduce-overhead": "reduce-overhead", "max-autotune": "max-autotune-no-cudagraphs"}
"""What torch calls them."""
MOST_SHAPES = 512
"""Graphs of one piece of code: a network has as many as its blocks have shapes, torch by default keeps 8."""


@dataclass(frozen=True)
class Work:
    """How much a run trains, and how."""

    images: int
    accumulation: int
    engine: str


def choose_compile(
    config: Config, spec: NetworkSpec, work: Work, before: RunContext | None
) -> tuple[str, str]:
    """What to compile on this machine, as `wanted_compile` says, and the reason; the same on every rank.

    Raises UserError where compiling was asked for and this machine cannot.
    """
    mode, why = wanted_compile(config, spec, work, before)
    if mode == "off":
        return mode, why
    problem = rank_zero_decides(lambda: compile_problem("cpu" if on_cpu(config) else "cuda"))
    if problem and config.train.compile != "auto":
        raise UserError(f"train.compile: {mode} does not work on this machine: {problem}")
    return ("off", f"this machine cannot compile: {problem}") if problem else (mode, why)


def wanted_compile(
    config: Config, spec: NetworkSpec, work: Work, before: RunContext | None
) -> tuple[str, str]:
    """What to compile in a run of so much work, and the reason.

    A resumed run keeps what it was started with (`before`) under `auto`: other code gives other bits.
    """
    mode: str
    mode, why = config.train.compile, "as configured"
    if mode == "auto":
        if before is not None and before.compile is not None:
            mode, why = before.compile, "as the run was started with"
        else:
            mode, why = _by_size(config, spec, work)
    if mode == "reduce-overhead" and (problem := _no_graphs(config, work)):
        return "full", f"{why}, but without CUDA graphs: {problem}"
    return mode, why


def _by_size(config: Config, spec: NetworkSpec, work: Work) -> tuple[str, str]:
    if work.engine != "DDP":
        return "off", f"auto: {work.engine} trains without"
    flops = network_complexity(spec, config.data.train_res or 0).flops
    if flops is None:
        return "off", "auto: the multiply-adds of the network cannot be counted"
    size, least = 3.0 * flops * work.images, WORTH_IT["cpu" if on_cpu(config) else "cuda"]
    compared = f"{size:.1e} multiply-adds, {'at least' if size >= least else 'less than'} {least:.0e}"
    return ("full" if size >= least else "off"), f"auto, by the size of the run: {compared}"


def _no_graphs(config: Config, work: Work) -> str | None:
    """Why the network cannot run as CUDA graphs, if it cannot."""
    if on_cpu(config):
        return "this is a CPU"
    if work.accumulation > 1:  # a replay writes its gradients where those of the replay before are
        return f"gradients are accumulated over {work.accumulation} micro-batches (train.max_device_batch)"
    return None


def compile_problem(device: str) -> str | None:
    """Why nothing can be compiled here; found by compiling next to nothing."""
    try:
        torch.compile(lambda x: x + 1, dynamic=False)(torch.ones(3, device=device))
    except Exception as error:  # of many kinds: no compiler, no headers, no disk
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None


def keep_compiled_code() -> None:
    """Keep compiled graphs in the cache folder, where later runs find them; a set variable stays as it is."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    import torch._dynamo

    torch._dynamo.config.recompile_limit = MOST_SHAPES
    torch._dynamo.config.accumulated_recompile_limit = 8 * MOST_SHAPES


def compile_network(network: nn.Module, mode: str) -> None:
    """Have the network compiled the first time that it is called; its weights keep their names.

    `regional` compiles stem, blocks and head each by itself: blocks of one shape share their code. Sizes are
    taken as fixed: each batch size and resolution has code of its own. With `reduce-overhead` the kernels of
    a pass over the network are started together, as a CUDA graph: on an H100 starting them one by one takes
    the processor longer than the GPU needs for a small network.
    """
    if mode == "off":
        return
    keep_compiled_code()
    options: dict[str, Any] = {"dynamic": False}
    if mode in TORCH_MODES:
        options["mode"] = TORCH_MODES[mode]
    if mode == "regional":
        assert isinstance(network, AnyNet)
        for part in network.parts():
            part.compile(**options)
    else:
        network.compile(**options)


def compile_first(
    network: nn.Module, mode: str, accelerator: Accelerator, shape: tuple[int, int, int, int]
) -> None:
    """One rank of each machine compiles for batches of a shape while the others wait, and then find its code.

    Called on every rank; alone, a rank compiles in its first step. The network is left as it is.
    """
    if mode == "off" or accelerator.num_processes == 1:
        return
    if accelerator.is_local_main_process:
        copy = deepcopy(network)
        compile_network(copy, mode)
        with accelerator.autocast(), torch.random.fork_rng():
            channels_last = next(network.parameters()).is_contiguous(memory_format=torch.channels_last)
            images = torch.zeros(shape, device=accelerator.device)
            images = images.to(memory_format=torch.channels_last) if channels_last else images
            loss = copy.train()(images).float().square().mean()
        loss.backward()
        del copy, loss
        torch.compiler.reset()  # frees the memory of its CUDA graphs; the code is on the disk
        logger.info("compiled on the first rank of each machine; the others take its code")
    accelerator.wait_for_everyone()


def evaluating(network: nn.Module, compiled: bool) -> AbstractContextManager[Any]:
    """The context of an evaluation, in which a compiled network runs without its code unless it is to.

    Compiling for the sizes of its batches takes as long as many evaluations.
    """
    is_compiled = any(module._compiled_call_impl is not None for module in network.modules())
    return torch.compiler.set_stance("force_eager") if is_compiled and not compiled else nullcontext()
