"""Stochastic depth: branches left out in training, nothing in evaluation, the same mean."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from anynet_dist.models import build_anynet
from anynet_dist.models.activation_checkpointing import checkpoint_activations
from anynet_dist.models.anynet import AnyNet
from anynet_dist.models.stochastic_depth import drop_branches
from anynet_dist.system.errors import UserError

DESCRIPTION: dict[str, Any] = {
    "block_type": ["basic", "vgg", "bottleneck"],
    "num_blocks_per_stage": [1, 1, 3],
    "num_channels": [8, 8, 16, 16],
    "strides": 1,
    "stem": "conv3x3_s1",
}
RESIDUAL = ("stage1.0.bn2", "stage3.0.bn3", "stage3.1.bn3", "stage3.2.bn3")
IMAGES = 4000


@pytest.fixture
def network() -> AnyNet:
    torch.manual_seed(0)
    return build_anynet(**DESCRIPTION).train()


def branches(network: AnyNet, images: Tensor) -> dict[str, Tensor]:
    """What comes out of each branch, by the name of its last norm."""
    seen: dict[str, Tensor] = {}
    for name in RESIDUAL:

        def see(module: object, inputs: object, output: Tensor, name: str = name) -> None:
            seen[name] = output.detach().clone()

        network.get_submodule(name).register_forward_hook(see)
    network(images)
    return seen


def test_later_branches_are_left_out_more_often(network: AnyNet) -> None:
    drop_branches(network, 0.4)
    with torch.no_grad():
        seen = branches(network, torch.randn(IMAGES, 3, 4, 4))
    shares = [float((seen[name].flatten(1) == 0).all(dim=1).float().mean()) for name in RESIDUAL]
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.03)


def test_what_stays_makes_up_for_what_goes(network: AnyNet) -> None:
    images = torch.randn(64, 3, 4, 4)
    plain = branches(deepcopy(network), images)[RESIDUAL[0]]
    drop_branches(network, 0.8)
    found = branches(network, images)[RESIDUAL[0]]
    stays = (found.flatten(1) != 0).any(dim=1)
    assert 0 < stays.sum() < 64
    torch.testing.assert_close(found[stays], plain[stays] / (1 - 0.2))


def test_evaluation_and_weights_are_as_before(network: AnyNet) -> None:
    other = deepcopy(network)
    drop_branches(other, 0.5)
    images = torch.randn(4, 3, 8, 8)
    assert not torch.equal(deepcopy(other)(images), network(images)), "a copy drops branches too"
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.eval()(images), network.eval()(images))


def test_checkpointed_blocks_leave_out_the_same_branches_twice(network: AnyNet) -> None:
    drop_branches(network, 0.5)
    other = deepcopy(network)
    checkpoint_activations(other, True)
    images = torch.randn(8, 3, 8, 8)
    for each in (network, other):
        torch.manual_seed(3)
        each(images).square().mean().backward()
    for parameter, same in zip(network.parameters(), other.parameters(), strict=True):
        assert parameter.grad is not None
        assert same.grad is not None
        assert torch.equal(parameter.grad, same.grad)


def test_a_network_without_residuals_has_no_branches() -> None:
    plain = build_anynet(**{**DESCRIPTION, "block_type": "vgg"})
    with pytest.raises(UserError, match=r"train\.stochastic_depth: no block of this network has a residual"):
        drop_branches(plain, 0.1)
    drop_branches(plain, 0.0)
