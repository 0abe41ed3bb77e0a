"""Checkpointed activations: the same gradients and statistics, with less kept for the backward pass."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch

from anynet_dist.models import build_anynet, training_memory
from anynet_dist.models.activation_checkpointing import Chosen, checkpoint_activations
from anynet_dist.models.anynet import AnyNet
from anynet_dist.system.errors import UserError
from anynet_dist.system.ranges import Precision

MIXED: dict[str, Any] = {
    "block_type": ["bottleneck", "basic", "inception"],
    "num_blocks_per_stage": [2, 2, 1],
    "num_channels": [8, 16, 24, 32],
    "se_ratio": 0.25,
    "stem": "conv3x3_maxpool",
    "num_classes": 10,
}
SHAPE = (4, 3, 37, 41)


@pytest.fixture
def network() -> AnyNet:
    torch.manual_seed(0)
    return build_anynet(**MIXED).train()


def checkpointed(network: AnyNet, chosen: Chosen) -> AnyNet:
    copy = deepcopy(network)
    checkpoint_activations(copy, chosen)
    return copy


def train(network: AnyNet, precision: Precision, steps: int = 2) -> None:
    """Forward and backward passes; the gradients add up."""
    torch.manual_seed(1)
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = network(torch.randn(SHAPE)).float().square().mean()
        loss.backward()


@pytest.mark.parametrize("chosen", [True, ["stem", "stage2"]])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_and_statistics_are_the_same_bits(
    network: AnyNet, precision: Precision, chosen: Chosen
) -> None:
    other = checkpointed(network, chosen)
    other = deepcopy(other)  # as for a moving average, or for shards: the copy computes with its own weights
    train(network, precision)
    train(other, precision)
    assert list(other.state_dict()) == list(network.state_dict())
    for name, tensor in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    for name, parameter in network.named_parameters():
        gradient = other.get_parameter(name).grad
        assert parameter.grad is not None
        assert gradient is not None
        assert torch.equal(gradient, parameter.grad), name
    assert network.get_buffer("stage1.0.bn1.num_batches_tracked") == 2
    torch.testing.assert_close(other.eval()(torch.ones(SHAPE)), network.eval()(torch.ones(SHAPE)))


def test_what_is_random_in_a_block_is_the_same_the_second_time(network: AnyNet) -> None:
    for block in (network.get_submodule("stage1.1"), network.get_submodule("stage2.1")):
        block.bn1 = torch.nn.Sequential(block.get_submodule("bn1"), torch.nn.Dropout(0.5))
    other = checkpointed(network, True)
    train(network, "fp32")
    train(other, "fp32")
    for parameter, same in zip(network.parameters(), other.parameters(), strict=True):
        assert parameter.grad is not None
        assert same.grad is not None
        assert torch.equal(parameter.grad, same.grad)


def test_frozen_statistics_stay_still(network: AnyNet) -> None:
    other = checkpointed(network, True)
    other.get_submodule("stage2").eval()
    before = deepcopy(other.get_submodule("stage2").state_dict())
    train(other, "fp32")
    for name, tensor in other.get_submodule("stage2").state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert other.get_buffer("stage1.0.bn1.num_batches_tracked") == 2


def kept_bytes(network: AnyNet, precision: Precision) -> int:
    """What autograd keeps of a real forward pass."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.numel() and tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.detach()
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        output = network(torch.randn(SHAPE))
    assert output.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("chosen", [True, ["stage1", "stage3"], ["stem"]])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_estimate_is_what_is_kept(network: AnyNet, precision: Precision, chosen: Chosen) -> None:
    plain = training_memory(network.spec, SHAPE[2:], SHAPE[0], precision)
    saving = training_memory(network.spec, SHAPE[2:], SHAPE[0], precision, checkpointing=chosen)
    names = ["stem", "stage1", "stage2", "stage3", "head"]
    keeping = [name for name in names if (name not in chosen if isinstance(chosen, list) else name == "head")]
    layers = (layer for name in keeping for layer in network.get_submodule(name).modules())
    copies = sum(
        2 * layer.weight.numel()
        for layer in layers
        if precision == "bf16" and isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
    )
    assert saving.activations + copies == kept_bytes(checkpointed(network, chosen), precision)
    assert 0 < saving.recomputed < plain.activations
    assert (saving.weights, saving.optimizer) == (plain.weights, plain.optimizer)


def test_the_largest_block_comes_back_whole() -> None:
    """Two 3x3 convolutions, each in a block of its own; the second has four times the first's channels."""
    description: dict[str, Any] = {
        "block_type": "vgg",
        "num_blocks_per_stage": [1, 1],
        "num_channels": [8, 8, 32],
        "strides": 1,
        "stem": "conv3x3_s1",
        "head": "features",
    }
    spec = build_anynet(**description).spec
    memory = training_memory(spec, 10, batch_size=2, checkpointing=["stage1", "stage2"])
    maps = 2 * 100
    stem = maps * (3 + 8) + 2 * 8  # images, what goes into batch norm, its mean and deviation
    assert memory.activations == 4 * (stem + maps * (8 + 8))  # and the inputs of both blocks
    assert memory.recomputed == 4 * (maps * (32 + 32) + 2 * 32)


def test_a_part_that_is_not_there_is_named(network: AnyNet) -> None:
    with pytest.raises(UserError, match=r"train\.activation_checkpointing.*stage9.*stage3"):
        checkpoint_activations(network, ["stage9"])
    with pytest.raises(UserError, match="head"):
        checkpoint_activations(network, ["head"])
