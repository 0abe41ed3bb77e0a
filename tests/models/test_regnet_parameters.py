"""RegNets by their own parameters, in python and in the config."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from anynet_dist import build_regnet, load_model
from anynet_dist.config import load_config
from anynet_dist.models import network_spec
from anynet_dist.runs.network_file import NetworkDescription, save_network
from anynet_dist.system.errors import UserError
from anynet_dist.training.build import check_network, model_arguments

X400: dict[str, Any] = {"w0": 24, "wa": 24.48, "wm": 2.54, "depth": 22, "group_width": 16}
Y800: dict[str, Any] = {"w0": 56, "wa": 38.84, "wm": 2.4, "depth": 14, "group_width": 16, "se_ratio": 0.25}


@pytest.mark.parametrize(("parameters", "preset"), [(X400, "regnetx_400mf"), (Y800, "regnety_800mf")])
def test_parameters_give_the_published_network(parameters: dict[str, Any], preset: str) -> None:
    assert build_regnet(**parameters, num_classes=10).spec == network_spec(preset=preset, num_classes=10)


def test_stem_strides_and_head_stay_free() -> None:
    spec = build_regnet(**X400, stem_width=16, stem="conv3x3_s1", strides=[1, 1, 2, 2], num_classes=7).spec
    assert (spec.stem.type, spec.stem.width, spec.head.num_classes) == ("conv3x3_s1", 16, 7)
    assert [stage.stride for stage in spec.stages] == [1, 1, 2, 2]


def test_a_bottleneck_keeps_the_groups_whole() -> None:
    for ratio in (0.25, 4.0):
        for stage in build_regnet(**X400, bottleneck_ratio=ratio, num_classes=7).spec.stages:
            assert stage.bottleneck_ratio == ratio
            assert stage.group_width is not None
            assert round(stage.width / ratio) % stage.group_width == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w0": 20}, "RegNet needs w0 a positive multiple of 8"),
        ({"wm": 1}, "wm > 1"),
        ({"wa": math.nan}, "regnet.wa must be a number, not nan"),
        ({"depth": "22"}, "regnet.depth must be an integer, not '22'"),
        ({"group_width": 0}, "regnet.group_width must be above 0, not 0"),
        ({"se": 0.25}, "unknown parameter of a RegNet 'se'"),
        ({"depth": 20_000}, "20,000 blocks in all"),
    ],
)
def test_parameters_out_of_range_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        network_spec(regnet=X400 | change)


def test_missing_parameters_are_named() -> None:
    with pytest.raises(UserError, match="wm, group_width missing"):
        network_spec(regnet={"w0": 24, "wa": 24.48, "depth": 22})


@pytest.mark.parametrize("other", [{"preset": "resnet50"}, {"group_width": 8}, {"num_channels": [8, 8]}])
def test_depths_and_widths_have_one_source(other: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"leave out {next(iter(other))}"):
        network_spec(regnet=X400, **other)


def written(folder: Path, model: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(f"model:\n{model}")
    return path


def test_the_config_takes_them(tmp_path: Path) -> None:
    path = written(tmp_path, "  regnet: {w0: 24, wa: 24.48, wm: 2.54, depth: 22, group_width: 16}\n")
    assert check_network(load_config(path).config) == network_spec(preset="regnetx_400mf")
    changed = load_config(path, ["--model.regnet.se_ratio", "0.25"]).config
    assert check_network(changed).stages[0].se_ratio == 0.25


def test_the_config_is_strict_about_them(tmp_path: Path) -> None:
    model = (
        "  regnet: {w0: 24, wa: -1, wm: 1, deph: 3, group_width: 16}\n"
        "  num_channels: [32, 64]\n  group_width: 8\n  preset: resnet50\n"
    )
    with pytest.raises(UserError) as refused:
        load_config(written(tmp_path, model))
    message = str(refused.value)
    assert "config.yaml:2: model.regnet.wa: must be a number >= 0 (got -1)" in message
    assert "config.yaml:2: model.regnet.wm: must be a number > 1 (got 1)" in message
    assert "config.yaml:2: model.regnet.deph: unknown key; did you mean 'model.regnet.depth'?" in message
    assert "config.yaml:3: model.num_channels: model.regnet gives" in message
    assert "stem's is model.regnet.stem_width" in message
    assert "config.yaml:4: model.group_width: model.regnet gives" in message
    assert "set model.regnet.group_width" in message
    assert "config.yaml:5: model.preset: model.regnet gives" in message


def test_the_config_names_what_is_missing(tmp_path: Path) -> None:
    path = written(tmp_path, "  regnet: {w0: 24, depth: 22}\n")
    with pytest.raises(
        UserError, match=r"set model\.regnet\.wa, model\.regnet\.wm, model\.regnet\.group_width too"
    ):
        load_config(path)


def test_a_saved_network_is_built_from_them_again(tmp_path: Path) -> None:
    path = written(tmp_path, "  regnet: {w0: 8, wa: 8, wm: 2, depth: 3, group_width: 8}\n  num_classes: 3\n")
    model = model_arguments(load_config(path).config)
    network = build_regnet(**model["regnet"], num_classes=3)
    save_network(tmp_path / "model.safetensors", network, NetworkDescription(model=model))
    assert load_model(tmp_path / "model.safetensors").spec == network.spec
