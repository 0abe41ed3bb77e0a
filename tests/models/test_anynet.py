from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from anynet_dist.models import AnyNet, build_anynet, network_spec

SMALL: dict[str, Any] = {
    "block_type": ["bottleneck", "vgg", "inception", "basic"],
    "num_blocks_per_stage": [2, 1, 1, 2],
    "num_channels": [8, 16, 16, 24, 32],
    "bottleneck_ratio": 0.5,
    "group_width": 8,
    "se_ratio": 0.25,
    "strides": [1, 2, 2, 2],
    "stem": "conv3x3_s1",
    "num_classes": 10,
}


@pytest.fixture
def network() -> AnyNet:
    return build_anynet(**SMALL)


def test_parts_by_name(network: AnyNet) -> None:
    assert [name for name, _ in network.named_children()] == [
        "stem",
        "stage1",
        "stage2",
        "stage3",
        "stage4",
        "head",
    ]
    assert [len(stage) for stage in list(network.children())[1:5]] == [2, 1, 1, 2]  # type: ignore[arg-type]


@pytest.mark.parametrize("side", [32, 33, 9])
def test_logits(network: AnyNet, side: int) -> None:
    assert network(torch.randn(2, 3, side, side)).shape == (2, 10)


def test_gradients_reach_every_parameter(network: AnyNet) -> None:
    loss = nn.functional.cross_entropy(network(torch.randn(4, 3, 32, 32)), torch.arange(4))
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_step_lowers_the_loss(network: AnyNet) -> None:
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(10):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_channels_last_gives_the_same(network: AnyNet) -> None:
    images = torch.randn(2, 3, 32, 32)
    expected = network.eval()(images)
    moved = copy.deepcopy(network).to(memory_format=torch.channels_last)
    images = images.to(memory_format=torch.channels_last)
    torch.testing.assert_close(moved(images), expected, rtol=1e-4, atol=1e-5)
    features = moved.stage2(moved.stage1(moved.stem(images)))  # type: ignore[operator]
    assert features.is_contiguous(memory_format=torch.channels_last)


def test_bfloat16_autocast(network: AnyNet) -> None:
    images = torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(images)
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_gives_the_same(network: AnyNet) -> None:
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(torch.jit.script(network.eval())(images), network(images))


@pytest.mark.slow
def test_compiles_without_a_graph_break(network: AnyNet) -> None:
    images = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(network.eval(), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), network(images))


def test_initialisation_of_pycls() -> None:
    network = build_anynet(num_blocks_per_stage=[1], num_channels=[64, 256], group_width=16, num_classes=100)
    layer = next(m for m in network.modules() if isinstance(m, nn.Conv2d) and m.groups > 1)
    assert layer.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.05)
    head: Any = network.head
    assert head.fc.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert head.fc.bias.abs().max() == 0
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)


def test_torch_initialisation_is_left_alone() -> None:
    torch.manual_seed(1)
    expected = nn.Conv2d(3, 8, 3, padding=1, bias=False).weight
    torch.manual_seed(1)
    ours: Any = build_anynet(**SMALL | {"init": "torch"})
    assert torch.equal(ours.stem.conv.weight, expected)


def test_zero_init_residual() -> None:
    network: Any = build_anynet(preset="resnet18", zero_init_residual=True)
    for stage in (network.stage1, network.stage4):
        for block in stage:
            assert (block.bn2.weight == 0).all()
            assert (block.bn1.weight == 1).all()


def test_same_seed_same_network() -> None:
    spec = network_spec(**SMALL)
    torch.manual_seed(5)
    first = AnyNet(spec).state_dict()
    torch.manual_seed(5)
    second = AnyNet(spec).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_grey_images() -> None:
    assert build_anynet(**SMALL, in_channels=1)(torch.randn(2, 1, 16, 16)).shape == (2, 10)


def test_features_head() -> None:
    assert build_anynet(**SMALL | {"head": "features"})(torch.randn(2, 3, 16, 16)).shape == (2, 32)


@pytest.mark.parametrize("block_type", ["bottleneck", "basic", "vgg", "vgg_residual", "vanilla", "inception"])
@pytest.mark.parametrize("stem", ["conv3x3_s1", "conv3x3_s2", "conv7x7_s2_maxpool", "conv3x3_maxpool"])
def test_each_stage_halves_the_resolution(block_type: str, stem: str) -> None:
    network = build_anynet(
        num_stages=4, num_blocks_per_stage=1, num_channels=8, block_type=block_type, stem=stem
    )
    x = network.stem(torch.randn(2, 3, 70, 70))
    for stage in list(network.children())[1:5]:
        before = x.shape[-1]
        x = stage(x)
        assert x.shape[-1] == (before + 1) // 2
