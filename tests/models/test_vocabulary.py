from __future__ import annotations

import logging
import pickle
import re
from typing import Any

import pytest

from anynet_dist.models import network_complexity, network_spec
from anynet_dist.system.errors import UserError

SMALL: dict[str, Any] = {"num_blocks_per_stage": [1, 2, 1], "num_channels": [8, 16, 32, 64]}


def stage_values(spec: Any, name: str) -> list[Any]:
    return [getattr(stage, name) for stage in spec.stages]


def test_defaults() -> None:
    spec = network_spec(**SMALL)
    assert (spec.stem.type, spec.stem.width, spec.stem.width_in) == ("conv3x3_s2", 8, 3)
    assert stage_values(spec, "block_type") == ["bottleneck"] * 3
    assert stage_values(spec, "depth") == [1, 2, 1]
    assert stage_values(spec, "width") == [16, 32, 64]
    assert stage_values(spec, "stride") == [2, 2, 2]
    assert stage_values(spec, "bottleneck_ratio") == [1.0] * 3
    assert stage_values(spec, "group_width") == [None] * 3
    assert (spec.head.type, spec.head.num_classes, spec.head.dropout) == ("linear", 1000, 0.0)
    assert spec.init == "pycls"


def test_one_value_for_all_stages_or_one_a_stage() -> None:
    spec = network_spec(
        num_stages=2,
        num_blocks_per_stage=3,
        num_channels=32,
        block_type=["bottleneck", "basic"],
        group_width=[8, None],
        bottleneck_ratio=2,
        strides=[1, 2],
    )
    assert spec.stem.width == 32
    assert stage_values(spec, "depth") == [3, 3]
    assert stage_values(spec, "width") == [32, 32]
    assert stage_values(spec, "block_type") == ["bottleneck", "basic"]
    assert stage_values(spec, "group_width") == [8, None]
    assert stage_values(spec, "bottleneck_ratio") == [2.0, 2.0]


@pytest.mark.parametrize("count", [1, 2, 6])
def test_any_number_of_stages(count: int) -> None:
    assert len(network_spec(num_stages=count, num_blocks_per_stage=1, num_channels=8).stages) == count


def test_what_is_set_beside_a_preset_overrides_it() -> None:
    preset = network_spec(preset="regnetx_400mf")
    spec = network_spec(preset="regnetx_400mf", stem="conv3x3_s1", strides=[1, 1, 2, 2], num_classes=10)
    assert spec.stem.type == "conv3x3_s1"
    assert stage_values(spec, "stride") == [1, 1, 2, 2]
    assert spec.head.num_classes == 10
    for name in ("depth", "width", "group_width", "bottleneck_ratio", "se_ratio"):
        assert stage_values(spec, name) == stage_values(preset, name)
    assert spec == network_spec(preset="regnetx_400mf_cifar", num_classes=10)


def test_squeeze_excitation_of_a_preset_can_be_taken_away() -> None:
    assert stage_values(network_spec(preset="regnety_400mf", se_ratio=0), "se_ratio") == [0.0] * 4


def test_preset_widths_follow_a_changed_group_width(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="anynet_dist.models"):
        spec = network_spec(preset="regnetx_400mf", group_width=24)
    assert stage_values(spec, "width") == [24, 72, 168, 384]
    assert "stage 2 of the preset: width 64, group width 24 become 72, 24" in caplog.text


def test_widths_given_beside_a_preset_never_change() -> None:
    with pytest.raises(UserError, match=r"stage 2 .*group_width 16 does not divide the 72 channels"):
        network_spec(preset="regnetx_400mf", num_channels=[32, 32, 72, 160, 384])


def test_spec_is_a_value() -> None:
    spec = network_spec(preset="resnet50")
    assert spec == network_spec(preset="resnet50") == pickle.loads(pickle.dumps(spec))
    assert len({spec, network_spec(preset="resnet50")}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_channels": [8, 16, 32]}, r"num_channels has 3 values; 3 stages need 4 \(the stem's first"),
        ({"num_stages": 4}, "num_blocks_per_stage has 3 values; 4 stages need 4 or one"),
        ({"strides": [2, 2]}, "strides has 2 values; 3 stages need 3 or one"),
        ({"block_type": ["vgg", "basic"]}, "block_type has 2 values; 3 stages need 3 or one"),
        ({"num_blocks_per_stage": [1, 0, 1]}, r"num_blocks_per_stage\[1\] must be at least 1, not 0"),
        ({"num_channels": [8, 16, 32.5, 64]}, r"num_channels\[2\] must be an integer, not 32.5"),
        ({"num_channels": [8, "16", 32, 64]}, r"num_channels\[1\] must be an integer, not '16'"),
        ({"strides": 0}, "strides must be at least 1, not 0"),
        ({"bottleneck_ratio": 0}, "bottleneck_ratio must be above 0"),
        ({"bottleneck_ratio": [1, -2, 1]}, r"bottleneck_ratio\[1\] must be above 0"),
        ({"se_ratio": 1.5}, "se_ratio must be between 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"group_width": -8}, "group_width must be at least 1"),
        (
            {"group_width": 12},
            r"stage 1 \(block_type 'bottleneck', num_channels 16\): group_width 12 does not",
        ),
        ({"group_width": 12}, "use group_width 8 or 16, or num_channels 12 or 24"),
        ({"block_type": "botleneck"}, "unknown block_type 'botleneck'; did you mean 'bottleneck'"),
        ({"stem": "conv3x3"}, "unknown stem 'conv3x3'; did you mean 'conv3x3_s"),
        ({"head": "liner"}, "unknown head 'liner'; did you mean 'linear'"),
        ({"init": "kaiming"}, r"unknown init 'kaiming' \(allowed: pycls, torch\)"),
        (
            {"block_type": ["vgg", "inception", "vgg"], "num_channels": [8, 16, 36, 64]},
            "stage 2 .*use 32 or 40",
        ),
    ],
)
def test_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        network_spec(**SMALL | change)


def test_wrong_length_beside_a_preset_says_whose_it_is() -> None:
    with pytest.raises(UserError, match=r"num_channels \(preset 'resnet50'\) has 5 values; 3 stages need 4"):
        network_spec(preset="resnet50", num_blocks_per_stage=[1, 1, 1])


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"num_channels": [8, 16]}, "num_blocks_per_stage is missing"),
        ({"num_blocks_per_stage": [1, 1]}, "num_channels is missing"),
        ({"num_blocks_per_stage": 2, "num_channels": 16}, "num_stages is missing"),
    ],
)
def test_missing(description: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        network_spec(**description)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_type": "vgg", "group_width": 8}, "group_width has no effect: block 'vgg' does not use it"),
        ({"block_type": "basic", "se_ratio": [0, 0.25, 0]}, r"se_ratio\[1\] has no effect: block 'basic'"),
        ({"head": "features", "dropout": 0.2}, "dropout has no effect: head 'features'"),
    ],
)
def test_settings_without_effect_are_said(
    change: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    network_spec(**SMALL | change)
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.WARNING
    assert re.search(message, caplog.text)


def test_nothing_is_said_when_every_setting_has_effect(caplog: pytest.LogCaptureFixture) -> None:
    network_spec(**SMALL, block_type=["bottleneck", "vgg", "basic"], group_width=8, dropout=0.1)
    network_spec(preset="regnety_400mf", block_type="basic")
    assert caplog.text == ""


def test_inverted_bottleneck_costs_more() -> None:
    inverted, plain = network_spec(**SMALL, bottleneck_ratio=0.25), network_spec(**SMALL)
    assert network_complexity(inverted).params > network_complexity(plain).params
