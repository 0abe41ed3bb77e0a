"""torch.compile: what is compiled and why, what later runs find of it, and how ranks share the work."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
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
MOST_SHAPES = 512
"""Graphs of one piece of code: a network has as many as its blocks have shapes, torch by default keeps 8."""


def choose_compile(
    config: Config, spec: NetworkSpec, images: int, engine: str, before: RunContext | None
) -> tuple[str, str]:
    """What to compile on this machine, as `wanted_compile` says, and the reason; the same on every rank.

    Raises UserError where compiling was asked for and this machine cannot.
    """
    mode, why = wanted_compile(config, spec, images, engine, before)
    if mode == "off":
        return mode, why
    problem = rank_zero_decides(lambda: _problem("cpu" if on_cpu(config) else "cuda"))
    if problem and config.train.compile != "auto":
        raise UserError(f"train.compile: {mode} does not work on this machine: {problem}")
    return ("off", f"this machine cannot compile: {problem}") if problem else (mode, why)


def wanted_compile(
    config: Config, spec: NetworkSpec, images: int, engine: str, before: RunContext | None
) -> tuple[str, str]:
    """What to compile in a run over so many `images`, and the reason.

    A resumed run keeps what it was started with (`before`) where the choice is left to us: other code gives
    other bits.
    """
    if config.train.compile != "auto":
        return config.train.compile, "as configured"
    if before is not None and before.compile is not None:
        return before.compile, "as the run was started with"
    return _by_size(config, spec, images, engine)


def _by_size(config: Config, spec: NetworkSpec, images: int, engine: str) -> tuple[str, str]:
    if engine != "DDP":
        return "off", f"auto: {engine} trains without"
    flops = network_complexity(spec, config.data.train_res or 0).flops
    if flops is None:
        return "off", "auto: the multiply-adds of the network cannot be counted"
    work, least = 3.0 * flops * images, WORTH_IT["cpu" if on_cpu(config) else "cuda"]
    compared = f"{work:.1e} multiply-adds, {'at least' if work >= least else 'less than'} {least:.0e}"
    return ("full" if work >= least else "off"), f"auto, by the size of the run: {compared}"


def _problem(device: str) -> str | None:
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
    taken as fixed: each batch size and resolution has code of its own.
    """
    if mode == "off":
        return
    keep_compiled_code()
    options: dict[str, Any] = {"dynamic": False}
    if mode == "max-autotune":
        options["mode"] = "max-autotune"
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
        logger.info("compiled on the first rank of each machine; the others take its code")
    accelerator.wait_for_everyone()


def evaluating(network: nn.Module, compiled: bool) -> AbstractContextManager[Any]:
    """The context of an evaluation, in which a compiled network runs without its code unless it is to.

    Compiling for the sizes of its batches takes as long as many evaluations.
    """
    is_compiled = any(module._compiled_call_impl is not None for module in network.modules())
    return torch.compiler.set_stance("force_eager") if is_compiled and not compiled else nullcontext()
