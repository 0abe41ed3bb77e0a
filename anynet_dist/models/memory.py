"""How much memory training a network takes on one device, by what it is for.

The network is run on the meta device, which computes shapes alone, and whatever autograd keeps for the
backward pass is added up, each storage once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from anynet_dist.models.activation_checkpointing import Chosen, checkpointed_blocks
from anynet_dist.models.anynet import AnyNet
from anynet_dist.models.complexity import Resolution
from anynet_dist.models.limits import MOST_BATCH, check_side
from anynet_dist.models.spec import NetworkSpec
from anynet_dist.system.errors import UserError
from anynet_dist.system.ranges import Precision

Optimizer = Literal["sgd", "adam", "adamw"]

HOW = (
    "Weights, gradients and the optimizer's state are fp32 in every precision; 16-bit training adds a 16-bit "
    "copy of the weights of convolutions and linear layers. Activations are what autograd keeps for the "
    "backward pass, each tensor once: inputs of convolutions and batch norms, outputs of ReLUs, indices of "
    "max-pooling; of checkpointed blocks the input alone, and the largest of them once more. Left out are "
    "the loss, the kernels' workspaces and what the allocator holds in reserve."
)
"""What the numbers hold, for people."""
STATE_BYTES: dict[Optimizer, int] = {"sgd": 4, "adam": 8, "adamw": 8}
"""Bytes of optimizer state a parameter: sgd's momentum, adam's two averages."""


def known_optimizer(name: str) -> Optimizer:
    """The optimizer whose state counts for that of `name`: of what others keep nothing is known, and most
    keep two averages."""
    return next((known for known in STATE_BYTES if known == name), "adam")


class UnknownMemoryError(UserError):
    """A part of the network wants values, and the meta device has none."""


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes on one device, by what they are for."""

    weights: int
    """Parameters and buffers, fp32."""
    gradients: int
    """One a parameter, fp32."""
    optimizer: int
    """The optimizer's state, fp32."""
    weight_copies: int
    """What autocast casts the weights to; 0 in fp32."""
    activations: int
    """Kept from the forward for the backward pass."""
    recomputed: int = 0
    """Of the largest checkpointed block, while it is in its backward pass; 0 without checkpointing."""

    @property
    def total(self) -> int:
        """All of them; activations go while gradients come, so the peak may stay below."""
        constant = self.weights + self.gradients + self.optimizer + self.weight_copies
        return constant + self.activations + self.recomputed


def training_memory(
    spec: NetworkSpec,
    resolution: Resolution = 224,
    batch_size: int = 1,
    precision: Precision = "fp32",
    optimizer: Optimizer = "sgd",
    checkpointing: Chosen = False,
) -> TrainingMemory:
    """The memory for training on `batch_size` images of `resolution` at a time, with momentum in sgd.

    `checkpointing` are the parts of the network whose activations are checkpointed. Raises UserError where
    the network cannot train on such a batch, and UnknownMemoryError where a part of it does not run on the
    meta device.
    """
    if batch_size < 1:
        raise UserError(f"a batch must have at least 1 image, not {batch_size}")
    if batch_size > MOST_BATCH:
        raise UserError(f"a batch must have at most {MOST_BATCH:,} images, not {batch_size:,}")
    side = (resolution, resolution) if isinstance(resolution, int) else resolution
    check_side(max(side))
    try:
        with torch.device("meta"):
            network = AnyNet(spec).train()
    except RuntimeError as error:
        raise _unknown(error) from error
    recomputing = set(checkpointed_blocks(network, checkpointing))
    kept = _kept_for_backward(network, (batch_size, spec.stem.width_in, *side), precision, recomputing)
    params = sum(parameter.numel() for parameter in network.parameters())
    weights = sum(tensor.nbytes for tensor in network.state_dict().values())
    return TrainingMemory(
        weights=weights,
        gradients=4 * params,
        optimizer=STATE_BYTES[optimizer] * params,
        weight_copies=0 if precision == "fp32" else 2 * _cast_weights(network),
        activations=kept.activations,
        recomputed=kept.recomputed,
    )


class _Kept:
    """Bytes that autograd keeps, block after block, each storage once; the network's own are left out."""

    def __init__(self, network: nn.Module, precision: Precision) -> None:
        self.own = {_storage_of(tensor) for tensor in (*network.parameters(), *network.buffers())}
        self.precision = precision
        self.tensors: dict[int, Tensor] = {}  # a storage is known as long as it lives
        self.activations = self.recomputed = 0

    def run(self, block: nn.Module, images: Tensor, recomputing: bool) -> Tensor:
        """Run a block; where it is to be computed again, keep its input alone."""
        inside: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            inside.append(tensor.detach())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output: Tensor = block(images)
        if recomputing:
            # The images themselves are not the output of a layer, which autocast would have in 16 bits.
            self.activations += self._add([images], "fp32" if images.grad_fn is None else self.precision)
            before = self.tensors.copy()
            self.recomputed = max(self.recomputed, self._add(inside, self.precision))
            self.tensors = before
        else:
            self.activations += self._add(inside, self.precision)
        return output

    def _add(self, tensors: list[Tensor], precision: Precision) -> int:
        """Take note of tensors that are kept, and return the bytes of those that were not before."""
        added = 0
        for tensor in tensors:
            if _storage_of(tensor) not in self.own and _storage_of(tensor) not in self.tensors:
                self.tensors[_storage_of(tensor)] = tensor
                added += _element_bytes(tensor, precision) * _stored(tensor)
        return added


def _kept_for_backward(
    network: AnyNet, shape: tuple[int, ...], precision: Precision, recomputing: Collection[nn.Module]
) -> _Kept:
    kept = _Kept(network, precision)
    images = torch.empty(shape, device="meta")
    try:
        for block in network.parts():
            images = kept.run(block, images, block in recomputing)
    except (RuntimeError, ValueError) as error:
        if "meta" in str(error):
            raise _unknown(error) from error
        raise UserError(f"the network cannot train on images {shape}: {error}") from error
    return kept


def _unknown(error: Exception) -> UnknownMemoryError:
    return UnknownMemoryError(f"unknown, as a part does not run on the meta device: {error}")


def _storage_of(tensor: Tensor) -> int:
    """What tensors that share their memory have in common, as long as it lives."""
    return tensor.untyped_storage()._cdata


def _stored(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes() // tensor.element_size()


def _element_bytes(tensor: Tensor, precision: Precision) -> int:
    """Bytes of an element under autocast: feature maps are 16-bit, batch norm's statistics stay fp32."""
    feature_map = tensor.is_floating_point() and tensor.dim() > 1
    return 2 if feature_map and precision != "fp32" else tensor.element_size()


def _cast_weights(network: nn.Module) -> int:
    layers = (layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
    return sum(layer.weight.numel() for layer in layers)
