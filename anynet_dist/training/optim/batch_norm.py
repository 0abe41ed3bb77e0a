"""Batch-norm statistics that are the same on every rank, and that can be recomputed precisely."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def _batch_norms(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


@torch.no_grad()
def average_batch_norm(network: nn.Module) -> None:
    """Replace each running mean and variance by its average over all ranks.

    Every rank sees other images, so their running statistics drift apart; without this the ranks would
    evaluate, and rank 0 would save, different networks. One collective for all layers.
    """
    layers = _batch_norms(network)
    if not layers or not dist.is_initialized() or dist.get_world_size() == 1:
        return
    running = [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var)]
    statistics = [buffer for buffer in running if buffer is not None]
    flat = torch.cat([buffer.reshape(-1).float() for buffer in statistics])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for buffer, averaged in zip(statistics, flat.split([b.numel() for b in statistics]), strict=True):
        buffer.copy_(averaged.view_as(buffer))


@contextmanager
def averaged_batch_norm(networks: Sequence[nn.Module]) -> Iterator[dict[str, torch.Tensor]]:
    """Average the statistics over all ranks for the block only, and yield this rank's own.

    They are named by the network's number and their name in it; there are none where there is one rank.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield {}
        return
    own = {
        f"{number}.{name}": buffer
        for number, network in enumerate(networks)
        for name, buffer in network.named_buffers()
    }
    kept = {name: buffer.clone() for name, buffer in own.items()}
    for network in networks:
        average_batch_norm(network)
    try:
        yield kept
    finally:
        for name, buffer in own.items():
            buffer.copy_(kept[name])


@torch.no_grad()
def recompute_batch_norm(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], num_samples: int
) -> None:
    """Set running statistics to those of about `num_samples` training images over all ranks.

    Plain averages over batches of the fixed weights in place of the moving average of changing ones
    (Wu and Johnson, 2021, "Rethinking 'Batch' in BatchNorm", section 3).
    """
    layers = _batch_norms(network)
    seen, was_training = 0, network.training
    with _cumulative_average(layers):
        network.train()
        for images, _ in batches:
            network(images)
            seen += len(images) * (dist.get_world_size() if dist.is_initialized() else 1)
            if seen >= num_samples:
                break
    network.train(was_training)
    average_batch_norm(network)


@contextmanager
def _cumulative_average(layers: list[_BatchNorm]) -> Iterator[None]:
    """Let running statistics be plain averages: torch does so where momentum is None."""
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
