"""Activation checkpointing: blocks keep their input alone and are computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from anynet_dist.models.anynet import AnyNet
from anynet_dist.system.errors import unknown_name

Chosen = bool | Sequence[str]
"""All parts before the head, none, or those named: stem, stage1, stage2, ..."""


def checkpoint_activations(network: AnyNet, chosen: Chosen) -> None:
    """Let the chosen parts keep no activations but the input of each block; gradients stay what they are.

    Weights keep their names, and copies of the network do as it does. Raises UserError where there is no such
    part.
    """
    for block in checkpointed_blocks(network, chosen):
        block.forward = MethodType(_checkpointed_forward, block)


def checkpointed_blocks(network: AnyNet, chosen: Chosen) -> list[nn.Module]:
    """The blocks of the chosen parts, the stem being one. Raises UserError where there is no such part."""
    known = [name for name, _ in network.named_children() if name != "head"]
    if isinstance(chosen, bool):
        chosen = known if chosen else []
    for name in chosen:
        if name not in known:
            raise unknown_name("part of the network in train.activation_checkpointing", name, known)
    parts = [(name, part) for name, part in network.named_children() if name in chosen]
    return [block for name, part in parts for block in ([part] if name == "stem" else part.children())]


def _checkpointed_forward(block: nn.Module, images: Tensor) -> Tensor:
    """The block's own forward, computed a second time when its gradients are."""
    forward = MethodType(type(block).forward, block)
    if not torch.is_grad_enabled():
        return forward(images)
    # A compiled block's backward pass computes activations alone, not what was written on the way.
    compiling = torch.compiler.is_compiling()
    options: dict[str, Any] = {} if compiling else {"context_fn": partial(_contexts, block)}
    return checkpoint(forward, images, use_reentrant=False, **options)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Those of the forward pass and of its repetition."""
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norms do not count the batch a second time: their running statistics move by 0 times it."""
    norms = [layer for layer in block.modules() if isinstance(layer, _BatchNorm) and layer.training]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in norms]
    for layer in norms:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, (momentum, batches) in zip(norms, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, batches
