"""The listing's networks against an independent transcription of what the listing computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anynet_dist.models import anynet_from_params, network_complexity, network_spec
from anynet_dist.system.errors import UserError

PARAMS: dict[str, Any] = {
    "block_type": "bottleneck",
    "num_stages": 4,
    "num_blocks_per_stage": [2, 4, 4, 2],
    "num_channels": [32, 64, 128, 256, 512],
    "bottleneck_ratio": 4,
    "group_width": 32,
}
COUNTS = {"bottleneck": 1_310_954, "vgg": 6_188_842, "inception": 4_244_906}


def bn(conv: nn.Conv2d, relu: bool = True) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(conv.out_channels)] + ([nn.ReLU()] if relu else [])


class Residual(nn.Module):
    """The listed bottleneck: its groups are the group width, its 3x3 is wider by the ratio."""

    def __init__(self, c: int, k: int, stride: int, ratio: int, groups: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = bn(nn.Conv2d(c, k, 1, bias=False, groups=groups), False)
        wide = nn.Conv2d(k, ratio * k, 3, stride, 1, bias=False, groups=groups)
        self.conv2, self.bn2 = bn(wide, False)
        self.conv3, self.bn3 = bn(nn.Conv2d(ratio * k, k, 1, bias=False, groups=groups), False)
        change = bn(nn.Conv2d(c, k, 1, stride, bias=False), False) if (stride, c) != (1, k) else []
        self.shortcut = nn.Sequential(*change)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        return (self.bn3(self.conv3(y)) + self.shortcut(x)).relu()


class Pooled(nn.Module):
    """The listed VGG block: pooling closes a block with stride 2."""

    def __init__(self, c: int, k: int, stride: int) -> None:
        super().__init__()
        self.conv, self.bn = bn(nn.Conv2d(c, k, 3, padding=1), False)
        self.halve = stride == 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x)).relu()
        return nn.functional.max_pool2d(y, 2) if self.halve else y


class Branches(nn.Module):
    """The listed inception block: no stride at all."""

    def __init__(self, c: int, k: int) -> None:
        super().__init__()
        self.branch_1x1 = nn.Sequential(*bn(nn.Conv2d(c, k // 4, 1)))
        narrow = bn(nn.Conv2d(c, k // 2, 1))
        self.branch_3x3 = nn.Sequential(*narrow, *bn(nn.Conv2d(k // 2, k // 2, 3, padding=1)))
        narrow = bn(nn.Conv2d(c, k // 2, 1))
        self.branch_5x5 = nn.Sequential(*narrow, *bn(nn.Conv2d(k // 2, k // 8, 5, padding=2)))
        self.branch_pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), *bn(nn.Conv2d(c, k // 8, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.children()], dim=1)


def transcription(params: dict[str, Any]) -> nn.Module:
    """The listed network, written down anew, with the listed names: stem, layer1 to layer4, head."""
    channels = params["num_channels"]
    network = nn.Sequential()
    network.add_module("stem", nn.Sequential(*bn(nn.Conv2d(3, channels[0], 3, padding=1, bias=False))))
    c = channels[0]
    for stage, (blocks, k) in enumerate(zip(params["num_blocks_per_stage"], channels[1:], strict=True), 1):
        layer = nn.Sequential()
        for index in range(blocks):
            stride = 2 if stage > 1 and index == 0 else 1
            block: nn.Module
            if params["block_type"] == "bottleneck":
                block = Residual(c, k, stride, params["bottleneck_ratio"], params["group_width"])
            elif params["block_type"] == "vgg":
                block = Pooled(c, k, stride)
            else:
                block = Branches(c, k)
            layer.append(block)
            c = k
        network.add_module(f"layer{stage}", layer)
    network.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 10)))
    return network


@pytest.fixture(params=COUNTS)
def listed(request: pytest.FixtureRequest) -> dict[str, Any]:
    return PARAMS | {"block_type": request.param}


def test_parameter_count(listed: dict[str, Any]) -> None:
    network = anynet_from_params(listed)
    assert sum(p.numel() for p in network.parameters()) == COUNTS[listed["block_type"]]
    assert network_complexity(network.spec, 32).params == COUNTS[listed["block_type"]]


def test_same_order_and_same_start_from_the_same_seed(listed: dict[str, Any]) -> None:
    torch.manual_seed(3)
    theirs = transcription(listed).state_dict()
    torch.manual_seed(3)
    ours = anynet_from_params(listed).state_dict()
    assert len(ours) == len(theirs)
    for our, their in zip(ours.values(), theirs.values(), strict=True):
        torch.testing.assert_close(our, their, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("train", [True, False])
def test_outputs_equal_to_the_bit(listed: dict[str, Any], train: bool, randomise_norms: Any) -> None:
    theirs, ours = transcription(listed), anynet_from_params(listed)
    randomise_norms(theirs)
    ours.load_state_dict(theirs.state_dict())  # in the listing's own names
    images = torch.randn(2, 3, 32, 32)
    theirs.train(train)
    ours.train(train)
    assert torch.equal(ours(images), theirs(images))
    statistics = zip(ours.buffers(), theirs.buffers(), strict=True)
    assert all(torch.equal(our, their) for our, their in statistics)


def test_own_names_load_too() -> None:
    source = anynet_from_params(PARAMS)
    anynet_from_params(PARAMS).load_state_dict(source.state_dict())


def test_number_of_classes() -> None:
    assert anynet_from_params(PARAMS, num_classes=7)(torch.randn(1, 3, 32, 32)).shape == (1, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_type": "vggg"}, "unknown block_type 'vggg'; did you mean 'vgg'"),
        ({"group_with": 32}, "unknown key 'group_with'; did you mean 'group_width'"),
        ({"num_blocks_per_stage": [2, 4, 4]}, "num_blocks_per_stage has 3 values; 4 stages need 4"),
        ({"group_width": 24}, "24 groups do not divide all of the widths 32 .* use group_width 16 or 32"),
    ],
)
def test_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        anynet_from_params(PARAMS | change)


def test_missing_key() -> None:
    with pytest.raises(UserError, match="params lacks num_stages, group_width"):
        anynet_from_params({k: v for k, v in PARAMS.items() if k not in ("num_stages", "group_width")})


def test_listed_blocks_in_the_ordinary_vocabulary_start_as_pytorch_starts_them() -> None:
    spec = network_spec(block_type="listing_vgg", num_blocks_per_stage=[1, 1], num_channels=8)
    assert spec.init == "torch"
