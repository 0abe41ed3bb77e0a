from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

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
    assert len(published) == 27
    large = {"regnety_64gf", "regnety_128gf", "regnety_256gf"}
    assert {f"{name}_cifar" for name in published if name not in large} <= set(names)
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
