"""Batch-norm statistics that are the same on every rank, and that can be recomputed precisely."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def _batch_norms(network: nn.Module) -> dict[str, _BatchNorm]:
    """The layers, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@torch.no_grad()
def averaged_statistics(network: nn.Module) -> dict[str, Tensor]:
    """The running means and variances averaged over all ranks, by their names in the state dict.

    Nothing where there is one rank. One collective for all layers, called on every rank.
    """
    if _world_size() == 1:
        return {}
    names = ("running_mean", "running_var")
    running = {
        f"{layer}.{name}": getattr(module, name)
        for layer, module in _batch_norms(network).items()
        for name in names
        if getattr(module, name) is not None
    }
    if not running:
        return {}
    flat = torch.cat([buffer.reshape(-1).float() for buffer in running.values()])
    dist.all_reduce(flat)
    flat /= _world_size()
    parts = flat.split([buffer.numel() for buffer in running.values()])
    return {
        name: part.view_as(buffer).to(buffer.dtype)
        for (name, buffer), part in zip(running.items(), parts, strict=True)
    }


@torch.no_grad()
def average_batch_norm(network: nn.Module) -> None:
    """Replace each running mean and variance by its average over all ranks.

    Every rank sees other images, so their running statistics drift apart; without this the ranks would
    evaluate, and rank 0 would save, different networks.
    """
    for name, averaged in averaged_statistics(network).items():
        network.get_buffer(name).copy_(averaged)


def own_statistics(networks: Sequence[nn.Module]) -> dict[str, Tensor]:
    """This rank's buffers, named by the network's number and their name in it; none where there is one rank.

    Between two evaluations the ranks' statistics differ: each resumes from its own.
    """
    if _world_size() == 1:
        return {}
    return {
        f"{number}.{name}": buffer
        for number, network in enumerate(networks)
        for name, buffer in network.named_buffers()
    }


@torch.no_grad()
def restore_statistics(networks: Sequence[nn.Module], saved: Mapping[str, Tensor]) -> None:
    """Put back what `own_statistics` returned."""
    for number, network in enumerate(networks):
        prefix = f"{number}."
        own = {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}
        network.load_state_dict(own, strict=False)


@torch.no_grad()
def recompute_batch_norm(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    num_samples: int,
    frozen: Sequence[nn.Module] = (),
) -> None:
    """Set running statistics to those of about `num_samples` training images over all ranks, but for those of
    `frozen` parts.

    `batches` are (images, labels) on the network's device. Plain averages over batches of the fixed weights
    in place of the moving average of changing ones (Wu and Johnson, 2021, "Rethinking 'Batch' in BatchNorm",
    section 3).
    """
    kept = {layer for part in frozen for layer in part.modules()}
    layers = [layer for layer in _batch_norms(network).values() if layer not in kept]
    momenta, training = [layer.momentum for layer in layers], network.training
    network.train()
    for part in frozen:
        part.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average
    for images in _first(batches, num_samples):
        network(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.train(training)
    average_batch_norm(network)


def _first(batches: Iterable[tuple[Tensor, Tensor]], num_samples: int) -> Iterator[Tensor]:
    """The images of the first batches, until all ranks together have at least `num_samples`."""
    seen = 0
    for images, _ in batches:
        yield images
        seen += len(images) * _world_size()
        if seen >= num_samples:
            break
