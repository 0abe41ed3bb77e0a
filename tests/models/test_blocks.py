from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from anynet_dist.models import Tally
from anynet_dist.models.registry import get_block
from anynet_dist.system.errors import UserError

BLOCKS: list[tuple[str, dict[str, Any]]] = [
    ("bottleneck", {}),
    ("bottleneck", {"bottleneck_ratio": 4.0}),
    ("bottleneck", {"bottleneck_ratio": 0.5, "group_width": 16}),
    ("bottleneck", {"bottleneck_ratio": 2.0, "group_width": 4, "se_ratio": 0.25}),
    ("basic", {}),
    ("vgg", {}),
    ("vgg_residual", {}),
    ("vanilla", {}),
    ("inception", {}),
    ("listing_bottleneck", {"bottleneck_ratio": 4, "group_width": 8}),
    ("listing_vgg", {}),
    ("listing_inception", {}),
]
every_block = pytest.mark.parametrize(("name", "options"), BLOCKS, ids=lambda value: str(value))


def halved(name: str, side: int) -> int:
    """What is left of a side after one block of stride 2."""
    if name == "listing_inception":
        return side
    return side // 2 if name == "listing_vgg" else (side + 1) // 2


@every_block
@pytest.mark.parametrize("side", [32, 8, 7, 3, 2])
def test_shapes(name: str, options: dict[str, Any], side: int) -> None:
    block = get_block(name)
    images = torch.randn(2, 16, side, side)
    assert block(16, 32, 2, **options)(images).shape == (2, 32, halved(name, side), halved(name, side))
    assert block(16, 16, 1, **options)(images).shape == images.shape


@every_block
@pytest.mark.parametrize(("width_out", "stride"), [(16, 1), (32, 1), (16, 2), (32, 2)])
def test_complexity_is_what_hooks_see(
    name: str,
    options: dict[str, Any],
    width_out: int,
    stride: int,
    hooked: Callable[..., tuple[int, int, int]],
) -> None:
    block = get_block(name)(16, width_out, stride, **options)
    tally = Tally(16, 13, 10)
    get_block(name).complexity(tally, width_out, stride, **options)  # type: ignore[attr-defined]
    image = torch.randn(1, 16, 13, 10)
    assert (tally.params, tally.flops, tally.acts) == hooked(block, image)
    assert tally.shape == block(image).shape[1:]


@every_block
def test_gradients_reach_every_parameter_and_the_input(name: str, options: dict[str, Any]) -> None:
    block = get_block(name)(16, 32, 2, **options)
    images = torch.randn(4, 16, 8, 8, requires_grad=True)
    block(images).square().sum().backward()
    assert images.grad is not None
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


@every_block
def test_receptive_field_is_what_gradients_see(name: str, options: dict[str, Any]) -> None:
    if options.get("se_ratio"):
        options = options | {"se_ratio": 0.0}  # its gate sees the whole image
    tally = Tally(16, 25, 25)
    get_block(name).complexity(tally, 16, 2, **options)  # type: ignore[attr-defined]
    block = get_block(name)(16, 16, 2, **options).eval()
    image = torch.randn(8, 16, 25, 25, requires_grad=True)
    output = block(image)
    output[:, :, output.shape[2] // 2, output.shape[3] // 2].square().sum().backward()
    assert image.grad is not None
    rows = image.grad.abs().sum((0, 1, 3)).nonzero()
    assert rows.max() - rows.min() + 1 == tally.receptive_field


def test_bottleneck_width_and_groups() -> None:
    inverted: Any = get_block("bottleneck")(24, 48, 1, bottleneck_ratio=0.25, group_width=16)
    assert (inverted.conv2.in_channels, inverted.conv2.groups) == (192, 12)
    narrow: Any = get_block("bottleneck")(24, 48, 1, bottleneck_ratio=4, group_width=4)
    assert (narrow.conv2.in_channels, narrow.conv2.groups) == (12, 3)


def test_squeeze_excitation_follows_the_input_width() -> None:
    block: Any = get_block("bottleneck")(64, 128, 2, se_ratio=0.25)
    assert (block.se.fc1.in_channels, block.se.fc1.out_channels) == (128, 16)


def test_residual_blocks_without_their_branch_are_the_identity() -> None:
    for name in ("bottleneck", "basic", "vgg_residual"):
        block: Any = get_block(name)(8, 8, 1)
        nn.init.zeros_(getattr(block, block.residual_norm).weight)
        images = torch.rand(2, 8, 5, 5)
        assert torch.equal(block(images), images)


@pytest.mark.parametrize(
    ("name", "width", "options", "message"),
    [
        ("bottleneck", 100, {"group_width": 16}, "use group_width 10 or 20, or num_channels 96 or 112"),
        ("bottleneck", 24, {"bottleneck_ratio": 4, "group_width": 16}, "does not divide the 6 channels"),
        ("bottleneck", 1, {"bottleneck_ratio": 4}, "bottleneck_ratio 4 leaves no channel of num_channels 1"),
        ("inception", 60, {}, "divisible by 8, not 60: use 56 or 64"),
        ("listing_inception", 4, {}, "divisible by 8, not 4: use 8"),
        ("listing_bottleneck", 48, {"bottleneck_ratio": 4, "group_width": 32}, "use group_width 8 or 16"),
    ],
)
def test_impossible_widths(name: str, width: int, options: dict[str, Any], message: str) -> None:
    block = get_block(name)
    with pytest.raises(UserError, match=message):
        block(16, width, 1, **options)
    with pytest.raises(UserError, match=message):
        block.complexity(Tally(16, 8, 8), width, 1, **options)  # type: ignore[attr-defined]
