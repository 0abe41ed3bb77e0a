"""Networks by name that others have too: wide and deep ResNets, large ResNeXts and RegNets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from anynet_dist.models import (
    build_anynet,
    convert_state_dict,
    network_complexity,
    network_spec,
    preset_resolution,
)
from anynet_dist.models.pretrained import timm_preset, torchvision_preset

TORCHVISION = (
    "wide_resnet50_2",
    "wide_resnet101_2",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "regnet_y_128gf",
)
TIMM = {
    **{
        name: name for name in ("wide_resnet50_2", "wide_resnet101_2", "resnext101_32x8d", "resnext101_64x4d")
    },
    **{name: name for name in ("resnet26", "resnet200")},
    "regnety_640": "regnety_64gf",
    "regnety_1280": "regnety_128gf",
    "regnety_2560": "regnety_256gf",
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_parameters_are_those_that_torchvision_states(name: str) -> None:
    preset = torchvision_preset(name)
    assert preset is not None
    stated = next(iter(torchvision.models.get_model_weights(name))).meta["num_params"]
    assert network_complexity(network_spec(preset=preset)).params == stated


@pytest.mark.slow
@pytest.mark.parametrize(("name", "preset"), TIMM.items())
def test_layers_are_those_of_timm(name: str, preset: str) -> None:
    """Built without memory: the largest would need 5 GiB."""
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        theirs = timm.create_model(name)
        ours = build_anynet(preset=preset)
    assert timm_preset(name) == preset
    converted = convert_state_dict(theirs.state_dict(), ours)  # refuses other names and shapes
    strides = [
        [
            layer.stride
            for layer in network.modules()
            if isinstance(layer, nn.Conv2d) and layer.kernel_size > (1, 1)
        ]
        for network in (theirs, ours)
    ]
    assert strides[0] == strides[1]
    groups = [
        [layer.groups for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        for network in (theirs, ours)
    ]
    assert sorted(groups[0]) == sorted(groups[1])
    assert len(converted) == len(theirs.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet26", pytest.param("wide_resnet50_2", marks=pytest.mark.slow)])
def test_outputs_are_those_of_timm(name: str, randomise_norms: Callable[[nn.Module], None]) -> None:
    timm = pytest.importorskip("timm")
    theirs, ours = (
        timm.create_model(name, num_classes=10).eval(),
        build_anynet(preset=name, num_classes=10).eval(),
    )
    randomise_norms(theirs)
    ours.load_state_dict(convert_state_dict(theirs.state_dict(), ours))
    images = torch.randn(2, 3, 65, 65)
    with torch.no_grad():
        assert (theirs(images) - ours(images)).abs().max() == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnext101_32x8d", "resnext101_64x4d"])
def test_outputs_are_those_of_torchvision(name: str, randomise_norms: Callable[[nn.Module], None]) -> None:
    theirs = torchvision.models.get_model(name, weights=None, num_classes=10).eval()
    ours = build_anynet(preset=name, num_classes=10).eval()
    randomise_norms(theirs)
    ours.load_state_dict(convert_state_dict(theirs.state_dict(), ours))
    images = torch.randn(1, 3, 65, 65)
    with torch.no_grad():
        assert (theirs(images) - ours(images)).abs().max() == 0.0


@pytest.mark.parametrize(
    ("name", "side"), [("resnet20", 32), ("regnety_4gf_cifar", 32), ("resnet26", 224), ("vgg16_like", 224)]
)
def test_each_network_has_images_that_it_was_made_for(name: str, side: int) -> None:
    assert preset_resolution(name) == side
