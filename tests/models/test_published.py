from __future__ import annotations

import pytest
import torchvision

from anynet_dist.models import preset_names, published_top1


@pytest.mark.parametrize(
    ("preset", "top1"),
    [
        ("regnetx_200mf", 0.6891),
        ("regnetx_400mf", 0.7262),
        ("regnety_4gf", 0.7936),
        ("resnet50", 0.7681),
        ("resnext50_32x4d", 0.7812),
    ],
)
def test_figures_of_pycls(preset: str, top1: float) -> None:
    published = published_top1(preset)
    assert published is not None
    assert published.source == "pycls"
    assert published.top1 == pytest.approx(top1, abs=1e-4)


@pytest.mark.parametrize(
    ("preset", "name"),
    [
        ("regnetx_400mf_tv", "regnet_x_400mf"),
        ("regnety_800mf_tv", "regnet_y_800mf"),
        ("regnety_8gf_tv", "regnet_y_8gf"),
        ("resnet18", "resnet18"),
        ("resnet34", "resnet34"),
    ],
)
def test_figures_of_torchvision_are_those_it_states(preset: str, name: str) -> None:
    published = published_top1(preset)
    assert published is not None
    stated = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].meta["_metrics"]["ImageNet-1K"][
        "acc@1"
    ]
    assert published.top1 == pytest.approx(stated / 100)


def test_nothing_is_claimed_for_networks_that_nobody_published() -> None:
    unpublished = {name for name in preset_names() if published_top1(name) is None}
    assert {"regnetx_400mf_cifar", "vgg16_like", "resnet56"} <= unpublished
    assert unpublished.isdisjoint({"regnetx_32gf", "regnety_12gf", "resnext152_32x4d"})
