"""Top-1 accuracies that others published for the zoo's networks, on ImageNet-1k's validation images.

pycls' are means of five runs of 100 epochs without any enhancement of training (its model zoo); torchvision's
stand for the networks that pycls does not have, with its first weights (`IMAGENET1K_V1`).
"""

from __future__ import annotations

from dataclasses import dataclass

PYCLS = "pycls"
TORCHVISION = "torchvision V1"

# Top-1 errors in percent, as pycls states them.
_PYCLS_ERRORS = {
    "regnetx_200mf": 31.088,
    "regnetx_400mf": 27.382,
    "regnetx_600mf": 25.864,
    "regnetx_800mf": 24.846,
    "regnetx_1_6gf": 23.038,
    "regnetx_3_2gf": 21.736,
    "regnetx_4gf": 21.356,
    "regnetx_6_4gf": 20.844,
    "regnetx_8gf": 20.728,
    "regnetx_12gf": 20.288,
    "regnetx_16gf": 19.956,
    "regnetx_32gf": 19.498,
    "regnety_200mf": 29.658,
    "regnety_400mf": 25.898,
    "regnety_600mf": 24.54,
    "regnety_800mf": 23.684,
    "regnety_1_6gf": 22.066,
    "regnety_3_2gf": 21.074,
    "regnety_4gf": 20.64,
    "regnety_6_4gf": 20.11,
    "regnety_8gf": 20.052,
    "regnety_12gf": 19.67,
    "regnety_16gf": 19.608,
    "regnety_32gf": 19.066,
    "resnet50": 23.19,
    "resnet101": 21.414,
    "resnet152": 20.87,
    "resnext50_32x4d": 21.884,
    "resnext101_32x4d": 20.664,
    "resnext152_32x4d": 20.386,
}
# Top-1 accuracies in percent, as torchvision states them.
_TORCHVISION_ACCURACIES = {
    "regnetx_400mf_tv": 72.834,
    "regnety_800mf_tv": 76.42,
    "regnety_8gf_tv": 80.032,
    "resnet18": 69.758,
    "resnet34": 73.314,
    "wide_resnet50_2": 78.468,
    "wide_resnet101_2": 78.848,
    "resnext101_32x8d": 79.312,
    "resnext101_64x4d": 83.246,
}


@dataclass(frozen=True, slots=True)
class Published:
    """A published accuracy."""

    top1: float
    """Fraction of images whose class was the network's first guess, in 0..1."""
    source: str
    """Who trained and measured it."""


def published_top1(preset: str) -> Published | None:
    """What was published for the preset; None where nothing was for exactly this network."""
    if preset in _PYCLS_ERRORS:
        return Published(round(1 - _PYCLS_ERRORS[preset] / 100, 5), PYCLS)
    if preset in _TORCHVISION_ACCURACIES:
        return Published(round(_TORCHVISION_ACCURACIES[preset] / 100, 5), TORCHVISION)
    return None
