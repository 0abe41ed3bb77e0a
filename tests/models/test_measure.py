"""The cost of parts that do not count themselves is right, or it is unknown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anynet_dist.cli import main
from anynet_dist.models import (
    build_anynet,
    network_complexity,
    network_spec,
    part_complexities,
    register_block,
)
from anynet_dist.models.blocks import BasicBlock, VGGBlock

pytestmark = pytest.mark.usefixtures("registries")
SMALL: dict[str, Any] = {"num_blocks_per_stage": [1, 2, 1], "num_channels": [8, 16, 24, 32], "num_classes": 5}


def in_the_middle(name: str) -> dict[str, Any]:
    return {**SMALL, "block_type": ["vgg", name, "basic"]}


class Wider(BasicBlock):
    """Inherits the count of fewer layers than it has."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__(width_in, width_out, stride)
        self.after = nn.Conv2d(width_out, width_out, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(super().forward(x))


class Strips(nn.Module):
    """Folds its windows into the batch, and convolves them there."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width_in, width_out, stride, stride)
        self.along = nn.Conv1d(width_out, width_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = (y := self.reduce(x)).shape
        rows = self.along(y.permute(0, 2, 1, 3).reshape(n * h, c, w))
        return rows.reshape(n, h, c, w).permute(0, 2, 1, 3)


class Attention(nn.Module):
    """Multiplies matrices outside of any layer."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width_in, width_out, stride, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.reduce(x)
        tokens = y.flatten(2)
        return ((tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens).view_as(y)


class Choosy(nn.Module):
    """Looks at values, which the meta device has not."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.scale = torch.linspace(0, 1, 3)[1].item()
        self.conv = nn.Conv2d(width_in, width_out, 3, stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * self.scale if y.mean() > 0 else y


@pytest.mark.parametrize("part", [Wider, Strips, Choosy])
def test_what_hooks_see_of_the_network_is_what_is_counted(part: Any) -> None:
    register_block("measured")(part)
    spec = network_spec(**in_the_middle("measured"))
    network = build_anynet(**in_the_middle("measured")).eval()
    seen = {"flops": 0, "acts": 0}

    def see(layer: Any, _: Any, output: Tensor) -> None:
        seen["acts"] += output.numel()
        seen["flops"] += output.numel() * (layer.weight[0].numel() + (layer.bias is not None))

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv1d | nn.Linear):
            layer.register_forward_hook(see)
    network(torch.randn(1, 3, 64, 64))
    cost = network_complexity(spec, 64)
    assert cost.params == sum(parameter.numel() for parameter in network.parameters())
    assert {"flops": cost.flops, "acts": cost.acts} == seen


def test_what_hooks_cannot_see_is_unknown_and_so_is_the_sum() -> None:
    register_block("attention")(Attention)
    spec = network_spec(**in_the_middle("attention"))
    parts = {part.name: part for part in part_complexities(spec, 64)}
    assert (parts["stage2"].flops, parts["stage2"].acts) == (None, None)
    assert parts["stage2"].params == 16 * 24 * 4 + 24 + 24 * 24 + 24
    assert (parts["stage1"].flops, parts["stage1"].acts) == (8 * 16 * 9 * 16 * 16, 16 * 16 * 16)
    assert parts["stage3"].flops == 4 * 4 * (24 * 32 * 9 + 32 * 32 * 9 + 24 * 32)
    total = network_complexity(spec, 64)
    assert (total.flops, total.acts) == (None, None)
    assert total.params == sum(part.params for part in parts.values())


def test_the_receptive_field_is_unknown_from_a_part_on_that_does_not_say_it() -> None:
    register_block("measured")(Wider)
    spec = network_spec(**in_the_middle("measured"))
    fields = [part.receptive_field for part in part_complexities(spec, 64)]
    assert fields == [3, 7, None, None, None]


def test_the_receptive_field_of_a_part_that_counts_itself_is_known() -> None:
    register_block("counted")(type("Counted", (VGGBlock,), {}))
    spec = network_spec(**in_the_middle("counted"))
    assert None not in [part.receptive_field for part in part_complexities(spec, 64)]


def test_measuring_leaves_the_random_numbers_alone() -> None:
    register_block("measured")(Choosy)
    torch.manual_seed(3)
    network_spec(**in_the_middle("measured"))
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))


SOURCE = """
import torch
from torch import nn
from anynet_dist.models import register_block

@register_block("show_choosy")
class Choosy(nn.Module):
    def __init__(self, width_in, width_out, stride):
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, 3, stride, 1)

    def forward(self, x):
        y = self.conv(x)
        return (y.flatten(2) @ y.flatten(2).transpose(1, 2) @ y.flatten(2)).view_as(y) if y.mean() < 9 else y
"""


def test_models_show_says_unknown(
    plugin_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin_file(SOURCE)
    config = tmp_path / "mine.yaml"
    config.write_text(
        "plugins: [my_blocks.py]\n"
        "model: {block_type: show_choosy, num_blocks_per_stage: [1], num_channels: [8, 16]}\n"
    )
    words = ["models", "show", str(config), "--res", "32", "--allow-plugins"]
    assert main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["flops"], facts["acts"], facts["memory"]) == (None, None, {})
    assert facts["parts"][1]["params"] == 8 * 16 * 9 + 16
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "unknown, as a part does not run on the meta device" in shown
    assert shown.count("unknown") >= 6
