from __future__ import annotations

import pytest
import torch
from torch import nn

from anynet_dist.bench.limits import Pass
from anynet_dist.bench.peer_networks import PEERS, MissingPeerError, peer_network
from anynet_dist.bench.steps import Step, Variant
from anynet_dist.models import build_anynet, network_complexity, network_spec
from anynet_dist.models.anynet import AnyNet


def tiny_network() -> AnyNet:
    torch.manual_seed(0)
    return build_anynet(num_blocks_per_stage=[1, 1], num_channels=[8, 8, 16], num_classes=10)


def step(work: Pass, compile: str = "off", network: nn.Module | None = None) -> Step:
    variant = Variant(
        network="ours", work=work, compile=compile, memory_format="channels_last", precision="fp32"
    )
    return Step(network or tiny_network(), variant, torch.rand(20, 3, 16, 16), 10)


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten().double() for value in network.state_dict().values()])


def test_a_training_step_trains_and_a_forward_step_changes_nothing() -> None:
    training, forward = step("train"), step("forward")
    before = weights(forward.network)
    loss = nn.functional.cross_entropy(training.network(training.images), training.labels)
    training.run(20)
    forward.run(1)
    assert nn.functional.cross_entropy(training.network(training.images), training.labels) < loss
    assert torch.equal(weights(forward.network), before)


def test_a_step_compiles_what_training_compiles() -> None:
    """Nothing is compiled before the first call."""
    whole, blocks = step("train", "full").network, step("train", "regional").network
    assert whole._compiled_call_impl is not None
    assert isinstance(blocks, AnyNet)
    assert blocks._compiled_call_impl is None
    assert all(part._compiled_call_impl is not None for part in blocks.parts())


@pytest.mark.parametrize(
    ("library", "preset"), [("timm", "regnety_400mf"), ("torchvision", "regnetx_400mf_tv")]
)
def test_a_peer_has_the_same_parameters(library: str, preset: str) -> None:
    pytest.importorskip(library)
    theirs = peer_network(library, preset, 10)
    expected = network_complexity(network_spec(preset=preset, num_classes=10)).params
    assert sum(each.numel() for each in theirs.parameters()) == expected


def test_a_network_that_a_library_lacks_is_named() -> None:
    for library in PEERS:
        pytest.importorskip(library)
        with pytest.raises(MissingPeerError, match=f"{library} is left out"):
            peer_network(library, None, 10)
    with pytest.raises(MissingPeerError, match="torchvision is left out: it has no regnetx_200mf"):
        peer_network("torchvision", "regnetx_200mf", 10)
