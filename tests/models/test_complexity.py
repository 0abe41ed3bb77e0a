from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from anynet_dist.models import AnyNet, check_resolution, network_complexity, network_spec, part_complexities
from anynet_dist.system.errors import UserError

MIXED: dict[str, Any] = {
    "block_type": ["vgg", "inception", "bottleneck", "basic", "listing_vgg"],
    "num_blocks_per_stage": [1, 2, 3, 2, 2],
    "num_channels": [8, 16, 24, 32, 40, 48],
    "group_width": 8,
    "bottleneck_ratio": 0.5,
    "se_ratio": 0.25,
    "strides": [1, 2, 2, 2, 2],
    "stem": "conv3x3_maxpool",
    "num_classes": 10,
}


@pytest.mark.slow
@pytest.mark.parametrize("resolution", [(64, 64), (57, 75)])
@pytest.mark.parametrize("description", [MIXED, {"preset": "regnety_200mf"}, {"preset": "resnet18"}])
def test_network_is_what_hooks_see(
    description: dict[str, Any],
    resolution: tuple[int, int],
    hooked: Callable[..., tuple[int, int, int]],
) -> None:
    spec = network_spec(**description)
    cost = network_complexity(spec, resolution)
    assert (cost.params, cost.flops, cost.acts) == hooked(AnyNet(spec), torch.randn(1, 3, *resolution))


def test_parts_add_up_and_have_the_real_shapes() -> None:
    spec = network_spec(**MIXED)
    parts = part_complexities(spec, (57, 75))
    total = network_complexity(spec, (57, 75))
    for name in ("params", "flops", "acts"):
        assert sum(getattr(part, name) for part in parts) == getattr(total, name)
    x = torch.randn(1, 3, 57, 75)
    network = AnyNet(spec).eval()
    for part, (name, module) in zip(parts, network.named_children(), strict=True):
        x = module(x)
        assert part.name == name
        assert (part.channels, part.height, part.width) == (*x.shape[1:], 1, 1)[:3]
        assert part.params == sum(p.numel() for p in module.parameters())


def test_receptive_field_of_resnet50() -> None:
    fields = [part.receptive_field for part in part_complexities(network_spec(preset="resnet50"))]
    assert fields == [11, 35, 91, 267, 427, 427]


def test_class_count_and_channels_count() -> None:
    thousand, ten = (network_spec(preset="resnet18", num_classes=n) for n in (1000, 10))
    assert network_complexity(thousand).params - network_complexity(ten).params == 990 * (512 + 1)
    grey = network_spec(preset="resnet18", in_channels=1)
    assert network_complexity(thousand).params - network_complexity(grey).params == 2 * 49 * 64


@pytest.mark.parametrize(
    ("description", "resolution", "message"),
    [
        (
            {"preset": "regnetx_400mf"},
            16,
            r"resolution 16 is too small: stage4 \(stride 2\) receives a 1x1 feature map; "
            r"use images of at least 17 pixels",
        ),
        ({"preset": "resnet50"}, (64, 8), r"resolution \(64, 8\) .*: stage3 \(stride 2\) receives a 8x1 "),
        (
            {
                "block_type": "listing_vgg",
                "num_blocks_per_stage": [1, 1],
                "num_channels": 8,
                "strides": [2, 3],
            },
            5,
            r"stage2 \(stride 3\) receives a 1x1 feature map",
        ),
        ({"preset": "resnet50"}, 0, "a resolution must be at least 1, not 0"),
    ],
)
def test_images_too_small(description: dict[str, Any], resolution: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_resolution(network_spec(**description), resolution)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("description", "resolution"),
    [
        ({"preset": "regnetx_400mf"}, 17),
        ({"preset": "regnetx_400mf_cifar"}, 32),
        ({"preset": "resnet56"}, 8),
        ({"preset": "resnet50"}, (224, 160)),
    ],
)
def test_images_large_enough_run(description: dict[str, Any], resolution: Any) -> None:
    spec = network_spec(**description)
    check_resolution(spec, resolution)
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    with torch.device("meta"):
        assert AnyNet(spec)(torch.empty(2, 3, height, width)).shape == (2, 1000)
