from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anynet_dist.models import (
    build_anynet,
    check_resolution,
    load_plugins,
    network_complexity,
    network_spec,
    register_block,
    register_head,
    register_stem,
)
from anynet_dist.models.registry import BLOCKS, HEADS, STEMS
from anynet_dist.system.errors import UserError
from anynet_dist.system.registry import registered

pytestmark = pytest.mark.usefixtures("registries")
PluginFile = Callable[..., Path]

PLUGIN = """
from torch import nn
from anynet_dist.models import register_block, register_head, register_stem

@register_stem("patchify")
class Patchify(nn.Sequential):
    def __init__(self, width_in, width_out):
        super().__init__(nn.Conv2d(width_in, width_out, 4, stride=4), nn.BatchNorm2d(width_out))

@register_block("depthwise")
class Depthwise(nn.Sequential):
    def __init__(self, width_in, width_out, stride, bottleneck_ratio, activation=nn.SiLU):
        inner = round(width_out / bottleneck_ratio)
        super().__init__(
            nn.Conv2d(width_in, inner, 1),
            nn.Conv2d(inner, inner, 5, stride=stride, padding=2, groups=inner, bias=False),
            nn.BatchNorm2d(inner), activation(), nn.Conv2d(inner, width_out, 1))

@register_block("shrinking")
class Shrinking(nn.Sequential):
    def __init__(self, width_in, width_out, stride):
        super().__init__(nn.Conv2d(width_in, width_out, 3, stride=stride))

@register_head("two_layers")
class TwoLayers(nn.Sequential):
    def __init__(self, width_in, num_classes):
        super().__init__(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(width_in, 32), nn.ReLU(),
                         nn.Linear(32, num_classes))
"""


@pytest.mark.slow
def test_plugin_parts_build_count_and_run(plugin_file: PluginFile, hooked: Callable[..., Any]) -> None:
    load_plugins([plugin_file(PLUGIN)])
    description: dict[str, Any] = {
        "block_type": ["depthwise", "bottleneck", "shrinking"],
        "num_blocks_per_stage": [2, 1, 2],
        "num_channels": [8, 16, 24, 32],
        "bottleneck_ratio": 0.5,
        "stem": "patchify",
        "head": "two_layers",
        "num_classes": 5,
    }
    network = build_anynet(**description)
    assert network(torch.randn(2, 3, 160, 160)).shape == (2, 5)
    cost = network_complexity(network.spec, 163)
    assert (cost.params, cost.flops, cost.acts) == hooked(network, torch.randn(1, 3, 163, 163))
    with pytest.raises(
        UserError, match=r"resolution 48 is too small: stage 3 .* Shrinking does not fit here"
    ):
        check_resolution(network.spec, 48)


def test_plugin_is_imported_once(plugin_file: PluginFile) -> None:
    path = plugin_file(PLUGIN)
    load_plugins([path, str(path)])
    load_plugins([path])
    assert {"depthwise", "shrinking"} <= set(BLOCKS)


def test_plugins_of_one_file_name_live_side_by_side(plugin_file: PluginFile, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    second = plugin_file(PLUGIN.replace('("', '("other_'), "other/my_blocks.py")
    load_plugins([plugin_file(PLUGIN), second])
    assert {"depthwise", "other_depthwise"} <= set(BLOCKS)


def test_missing_plugin(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"plugin .*/nothing\.py: no such file"):
        load_plugins([tmp_path / "nothing.py"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import torch\nx = undefined\n", r"my_blocks\.py:2: NameError: name 'undefined' is not defined"),
        ("import torch\n\ndef f(:\n", r"my_blocks\.py:3: SyntaxError"),
        (PLUGIN + "\nimport torhc\n", r"my_blocks\.py:30: ModuleNotFoundError: No module named 'torhc'"),
        (PLUGIN.replace('"depthwise"', '"vgg"'), r"my_blocks\.py:\d+: block 'vgg' is already registered"),
    ],
)
def test_failing_plugin_is_located_and_leaves_nothing(
    source: str, message: str, plugin_file: PluginFile
) -> None:
    before = set(BLOCKS), set(STEMS), set(HEADS)
    path = plugin_file(source)
    with pytest.raises(UserError, match=message):
        load_plugins([path])
    assert (set(BLOCKS), set(STEMS), set(HEADS)) == before
    plugin_file(PLUGIN)  # corrected, it loads
    load_plugins([path])
    assert "depthwise" in BLOCKS


class Needy(nn.Module):
    def __init__(self, width_in: int, width_out: int, stride: int, colour: str) -> None:
        super().__init__()


class WithoutStride(nn.Module):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Needy, "block 'x' needs an argument 'colour' that is never passed"),
        (
            WithoutStride,
            r"must take \(width_in, width_out, stride, ...\) first; it takes \(width_in, width_out\)",
        ),
        (dict, "must be a subclass of torch.nn.Module"),
    ],
)
def test_unusable_blocks_are_refused(part: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        register_block("x")(part)


@pytest.mark.parametrize(("register", "name"), [(register_stem, "conv3x3_s1"), (register_head, "linear")])
def test_taken_names_are_refused(register: Any, name: str) -> None:
    with pytest.raises(UserError, match=rf"'{name}' is already registered \(anynet_dist\.models\."):
        register(name)(WithoutStride)


def test_block_counts_itself_where_it_can() -> None:
    @register_block("counted")
    class Counted(nn.Module):
        def __init__(self, width_in: int, width_out: int, stride: int) -> None:
            raise AssertionError("counting must not build it")

        def forward(self, x: Tensor) -> Tensor:
            return x

        @staticmethod
        def complexity(tally: Any, width_out: int, stride: int) -> None:
            tally.conv(width_out, 1, stride)

    spec = network_spec(block_type="counted", num_blocks_per_stage=[2], num_channels=8)
    assert network_complexity(spec).params == 8 * 3 * 9 + 16 + 2 * 64 + 8 * 1000 + 1000


FAILS = """
from anynet_dist import register_loss, register_optimizer, register_schedule, register_source
import torch

@register_loss("failed")
class Loss(torch.nn.Module): ...

@register_optimizer("failed")
class Optimizer(torch.optim.SGD):
    def __init__(self, params, lr): ...

@register_schedule("failed")
def schedule(total_steps): ...

@register_source("failed")
def source(): ...
"""


def test_a_failing_plugin_leaves_nothing_of_any_kind(plugin_file: PluginFile) -> None:
    kinds = ("loss", "optimizer", "schedule", "source")
    path = plugin_file(FAILS + "\nraise ValueError('late')\n")
    with pytest.raises(UserError, match="late"):
        load_plugins([path])
    for kind in kinds:
        assert registered(kind)
        assert "failed" not in registered(kind)
    load_plugins([plugin_file(FAILS)])
    assert all("failed" in registered(kind) for kind in kinds)
