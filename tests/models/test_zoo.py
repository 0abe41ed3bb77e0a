from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from anynet_dist.models import AnyNet, build_anynet, network_complexity, network_spec, preset_names
from anynet_dist.system.errors import UserError

GOLDEN = json.loads(Path(__file__).with_name("golden_complexity.json").read_text(encoding="utf-8"))
# Parameters that torchvision reports for the same networks at 1000 classes.
TORCHVISION_PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet152": 60_192_808,
    "regnetx_800mf": 7_259_656,
    "regnetx_16gf": 54_278_536,
    "regnety_3_2gf": 19_436_338,
    "regnety_16gf": 83_590_140,
    "regnetx_400mf_tv": 5_495_976,
    "regnety_800mf_tv": 6_432_512,
    "regnety_8gf_tv": 39_381_472,
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_complexity(name: str) -> None:
    golden, spec = GOLDEN[name], network_spec(preset=name)
    assert [stage.width for stage in spec.stages] == golden["widths"]
    assert [stage.depth for stage in spec.stages] == golden["depths"]
    cost = network_complexity(spec)
    assert (cost.params, cost.flops, cost.acts) == (golden["params"], golden["flops"], golden["acts"])


@pytest.mark.parametrize("name", TORCHVISION_PARAMETERS)
def test_parameters_published_by_torchvision(name: str) -> None:
    assert network_complexity(network_spec(preset=name)).params == TORCHVISION_PARAMETERS[name]


@pytest.mark.parametrize("name", [name for name in preset_names() if not name.endswith("_cifar")])
def test_counted_parameters_are_the_built_ones(name: str) -> None:
    spec = network_spec(preset=name, num_classes=10)
    with torch.device("meta"):
        network = AnyNet(spec)
    assert sum(p.numel() for p in network.parameters()) == network_complexity(spec).params


def test_whole_zoo_is_there() -> None:
    names = preset_names()
    published = [name for name in names if re.fullmatch(r"regnet[xy]_[\d_]+[mg]f", name)]
    assert len(published) == 24
    assert {f"{name}_cifar" for name in published} <= set(names)
    assert {"resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x4d"} <= set(names)


@pytest.mark.parametrize(("name", "layers"), [("resnet56", 56), ("resnet110", 110), ("vgg16_like", 14)])
def test_layers_with_weights(name: str, layers: int) -> None:
    with torch.device("meta"):
        network = build_anynet(preset=name, num_classes=10)
    main_path = [
        layer
        for path, layer in network.named_modules()
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear) and "shortcut" not in path
    ]
    assert len(main_path) == layers


@pytest.mark.parametrize("name", ["regnet_x_400mf", "RegNetX-400MF", "regnetx_400"])
def test_unknown_preset_names_the_nearest(name: str) -> None:
    with pytest.raises(UserError, match="regnetx_400mf"):
        network_spec(preset=name)


def test_unlike_any_preset() -> None:
    with pytest.raises(UserError, match=re.escape("the families are regnetx_*")):
        network_spec(preset="zzz")


def renamed(key: str) -> str:
    """A torchvision RegNet key in our names."""
    replacements: list[tuple[str, str]] = [
        (r"^stem\.0\.", "stem.conv."),
        (r"^stem\.1\.", "stem.bn."),
        (r"^trunk_output\.block(\d)\.block\d-(\d+)\.", r"stage\1.\2."),
        (r"\.proj\.", ".shortcut."),
        (r"\.f\.se\.", ".se."),
        (r"^fc\.", "head.fc."),
    ]
    for number, letter in enumerate("abc", 1):
        replacements += [
            (rf"\.f\.{letter}\.0\.", f".conv{number}."),
            (rf"\.f\.{letter}\.1\.", f".bn{number}."),
        ]
    for pattern, replacement in replacements:
        key = re.sub(pattern, replacement, key)
    return key


def assert_same_outputs(theirs: torch.nn.Module, ours: torch.nn.Module, side: int) -> None:
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        assert (theirs.eval()(images) - ours.eval()(images)).abs().max() == 0.0


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_torchvision_resnet_weights_fit_in_order(name: str, randomise_norms: Any) -> None:
    theirs = getattr(torchvision.models, name)(weights=None, num_classes=10)
    randomise_norms(theirs)
    ours = build_anynet(preset=name, num_classes=10)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    assert_same_outputs(theirs, ours, 65)


@pytest.mark.parametrize(
    ("theirs_name", "name"),
    [
        ("regnet_x_800mf", "regnetx_800mf"),
        ("regnet_y_400mf", "regnety_400mf"),
        ("regnet_x_400mf", "regnetx_400mf_tv"),
    ],
)
def test_torchvision_regnet_weights_fit_by_name(theirs_name: str, name: str, randomise_norms: Any) -> None:
    theirs = getattr(torchvision.models, theirs_name)(weights=None, num_classes=10)
    randomise_norms(theirs)
    ours = build_anynet(preset=name, num_classes=10)
    ours.load_state_dict({renamed(key): value for key, value in theirs.state_dict().items()})
    assert_same_outputs(theirs, ours, 65)
