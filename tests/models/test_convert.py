from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from anynet_dist.models import AnyNet, build_anynet, convert_state_dict
from anynet_dist.models.checkpoint_files import choose_weights
from anynet_dist.models.convert import our_names
from anynet_dist.system.errors import UserError

slow = pytest.mark.slow


def assert_same_outputs(theirs: nn.Module, ours: nn.Module) -> None:
    images = torch.randn(2, 3, 65, 65)
    with torch.no_grad():
        expected = theirs.eval()(images)
        assert expected.std() > 0
        assert (expected - ours.eval()(images)).abs().max() == 0.0


def assert_converts_exactly(
    theirs: nn.Module, preset: str, randomise_norms: Callable[[nn.Module], None]
) -> None:
    randomise_norms(theirs)
    ours = build_anynet(preset=preset, num_classes=10)
    ours.load_state_dict(convert_state_dict(theirs.state_dict(), ours))
    assert_same_outputs(theirs, ours)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("resnet18", "resnet18"),
        ("regnet_x_400mf", "regnetx_400mf_tv"),
        ("regnet_x_800mf", "regnetx_800mf"),
        ("regnet_y_400mf", "regnety_400mf"),
        ("regnet_y_1_6gf", "regnety_1_6gf"),
        ("resnet50", "resnet50"),
        ("resnext50_32x4d", "resnext50_32x4d"),
        pytest.param("resnet101", "resnet101", marks=slow),
    ],
)
def test_torchvision_networks_compute_the_same(name: str, preset: str, randomise_norms: Any) -> None:
    theirs = torchvision.models.get_model(name, weights=None, num_classes=10)
    assert_converts_exactly(theirs, preset, randomise_norms)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("resnet18", "resnet18"),
        ("regnetx_004", "regnetx_400mf"),
        ("regnetx_004_tv", "regnetx_400mf_tv"),
        ("regnety_008", "regnety_800mf"),
        pytest.param("regnety_032", "regnety_3_2gf", marks=slow),
    ],
)
def test_timm_networks_compute_the_same(name: str, preset: str, randomise_norms: Any) -> None:
    timm = pytest.importorskip("timm")
    assert_converts_exactly(timm.create_model(name, num_classes=10), preset, randomise_norms)


SMALL: dict[str, Any] = {"num_channels": [8, 16, 32], "num_blocks_per_stage": [1, 2], "num_classes": 3}


def named_by_pycls(network: AnyNet) -> dict[str, Tensor]:
    """The weights of one of our networks as a data-parallel pycls run would save them."""
    inner = "" if "vanilla" in network.spec.stages[0].block_type else "f."
    replacements = {
        r"^stage(\d+)\.(\d+)\.": lambda found: f"s{found[1]}.b{int(found[2]) + 1}.",
        r"\.conv([123])\.": lambda found: f".{inner}{'abc'[int(found[1]) - 1]}.",
        r"\.bn([123])\.": lambda found: f".{inner}{'abc'[int(found[1]) - 1]}_bn.",
        r"\.se\.fc1\.": lambda _: ".f.se.f_ex.0.",
        r"\.se\.fc2\.": lambda _: ".f.se.f_ex.2.",
        r"\.shortcut\.0\.": lambda _: ".proj.",
        r"\.shortcut\.1\.": lambda _: ".bn.",
    }
    renamed = {}
    for key, tensor in network.state_dict().items():
        for pattern, replacement in replacements.items():
            key = re.sub(pattern, replacement, key)
        renamed[f"module.{key}"] = tensor
    return renamed


@pytest.mark.parametrize("block", [{"se_ratio": 0.25, "group_width": 4}, {"block_type": "basic"}])
def test_pycls_networks_compute_the_same_on_images_in_bgr(
    block: dict[str, Any], randomise_norms: Callable[[nn.Module], None], caplog: pytest.LogCaptureFixture
) -> None:
    theirs, ours = build_anynet(**SMALL, **block).eval(), build_anynet(**SMALL, **block).eval()
    randomise_norms(theirs)
    checkpoint = {"epoch": 99, "model_state": named_by_pycls(theirs), "optimizer_state": {"state": {}}}
    with caplog.at_level(logging.INFO):
        ours.load_state_dict(convert_state_dict(choose_weights(checkpoint), ours))
    assert "reversed to RGB" in caplog.text
    images = torch.randn(2, 3, 33, 33)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images.flip(1)))


def test_every_name_of_a_pycls_block_is_known() -> None:
    known = our_names(
        [
            "stem.conv.weight",
            "s1.b1.proj.weight",
            "s1.b1.bn.running_var",
            "s1.b1.f.a.weight",
            "s1.b1.f.a_bn.bias",
            "s1.b1.f.se.f_ex.0.weight",
            "s1.b1.f.se.f_ex.2.bias",
            "s3.b12.f.c_bn.weight",
            "head.fc.bias",
        ]
    )
    assert list(known) == [
        "stem.conv.weight",
        "stage1.0.shortcut.0.weight",
        "stage1.0.shortcut.1.running_var",
        "stage1.0.conv1.weight",
        "stage1.0.bn1.bias",
        "stage1.0.se.fc1.weight",
        "stage1.0.se.fc2.bias",
        "stage3.11.bn3.weight",
        "head.fc.bias",
    ]


def test_pycls_vanilla_blocks_convert() -> None:
    theirs, ours = (build_anynet(**SMALL, block_type="vanilla") for _ in range(2))
    converted = convert_state_dict(named_by_pycls(theirs), ours)
    ours.load_state_dict(converted)
    assert torch.equal(converted["stage2.1.conv2.weight"], theirs.state_dict()["stage2.1.conv2.weight"])


def test_our_own_weights_pass_as_they_are() -> None:
    network = build_anynet(**SMALL, block_type="inception")
    compiled = {f"_orig_mod.{key}": tensor for key, tensor in network.state_dict().items()}
    assert convert_state_dict(compiled, network).keys() == network.state_dict().keys()


def test_files_that_do_not_count_batches_fit() -> None:
    network = build_anynet(**SMALL)
    weights = {key: value for key, value in network.state_dict().items() if "num_batches" not in key}
    network.load_state_dict(convert_state_dict(weights, network))


def test_misfit_names_layer_shapes_and_the_preset_that_fits() -> None:
    theirs = torchvision.models.regnet_x_400mf(weights=None, num_classes=10).state_dict()
    with pytest.raises(UserError) as refused:
        convert_state_dict(theirs, build_anynet(preset="regnetx_800mf", num_classes=10))
    message = str(refused.value)
    assert (
        "stage1.0.conv1.weight (there trunk_output.block1.block1-0.f.a.0.weight): "
        "the source has (32, 32, 1, 1), the model (64, 32, 1, 1)"
    ) in message
    assert "presets with as many parameters (5,098,986): regnetx_400mf_tv" in message
    assert len(message.splitlines()) == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"se_ratio": 0.25},
            r"stage1\.0\.se\.fc1\.weight: the source lacks it, the model has \(2, 16, 1, 1\)",
        ),
        (
            {"num_blocks_per_stage": [1, 1]},
            r"stage2\.1\.conv1\.weight: the source has \(32, 32, 1, 1\), the model lacks it",
        ),
        ({"num_classes": 4}, r"head\.fc\.weight: the source has \(3, 32\), the model \(4, 32\)"),
    ],
)
def test_misfits_of_single_layers(change: dict[str, Any], message: str) -> None:
    weights = build_anynet(**SMALL).state_dict()
    with pytest.raises(UserError, match=message):
        convert_state_dict(weights, build_anynet(**SMALL | change))


@pytest.mark.parametrize(
    "keys", [[], ["features.0.weight", "classifier.6.bias"], ["blocks.0.attn.qkv.weight"]]
)
def test_weights_of_other_networks_are_refused(keys: list[str]) -> None:
    with pytest.raises(UserError, match="no network that can be converted"):
        convert_state_dict({key: torch.zeros(1) for key in keys}, build_anynet(**SMALL))


@pytest.mark.parametrize("checkpoint", [{"epoch": 3, "weights": 1}, [1], {"model": {"state_dict": {"a": 1}}}])
def test_no_state_dict(checkpoint: object) -> None:
    with pytest.raises(UserError, match="there is no state dict"):
        choose_weights(checkpoint)
