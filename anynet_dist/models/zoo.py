"""The published networks of the space by name, each in the vocabulary of `network_spec`.

RegNets come from their generating parameters (Designing Network Design Spaces, Radosavovic et al., 2020, and
pycls' model zoo), ResNets from Deep Residual Learning (He et al., 2016, tables 1 and 6), ResNeXts from
Aggregated Residual Transformations (Xie et al., 2017, table 1), wide ResNets from Wide Residual Networks
(Zagoruyko and Komodakis, 2016).
"""

from __future__ import annotations

from copy import deepcopy
from difflib import get_close_matches
from typing import Any

from anynet_dist.models.regnet import generous_multiple, regnet_description
from anynet_dist.system.errors import UserError

Description = dict[str, Any]

# name: (w0, wa, wm, depth, group width)
_REGNETX = {
    "200mf": (24, 36.44, 2.49, 13, 8),
    "400mf": (24, 24.48, 2.54, 22, 16),
    "600mf": (48, 36.97, 2.24, 16, 24),
    "800mf": (56, 35.73, 2.28, 16, 16),
    "1_6gf": (80, 34.01, 2.25, 18, 24),
    "3_2gf": (88, 26.31, 2.25, 25, 48),
    "4gf": (96, 38.65, 2.43, 23, 40),
    "6_4gf": (184, 60.83, 2.07, 17, 56),
    "8gf": (80, 49.56, 2.88, 23, 120),
    "12gf": (168, 73.36, 2.37, 19, 112),
    "16gf": (216, 55.59, 2.1, 22, 128),
    "32gf": (320, 69.86, 2.0, 23, 168),
}
_REGNETY = {
    "200mf": (24, 36.44, 2.49, 13, 8),
    "400mf": (48, 27.89, 2.09, 16, 8),
    "600mf": (48, 32.54, 2.32, 15, 16),
    "800mf": (56, 38.84, 2.4, 14, 16),
    "1_6gf": (48, 20.71, 2.65, 27, 24),
    "3_2gf": (80, 42.63, 2.66, 21, 24),
    "4gf": (96, 31.41, 2.24, 22, 64),
    "6_4gf": (112, 33.22, 2.27, 25, 72),
    "8gf": (192, 76.82, 2.19, 17, 56),
    "12gf": (168, 73.36, 2.37, 19, 112),
    "16gf": (200, 106.23, 2.48, 18, 112),
    "32gf": (232, 115.89, 2.53, 20, 232),
}
# Beyond the paper: SEER's networks (Goyal et al., 2021 and 2022), as torchvision and timm have them.
_REGNETY_LARGE = {
    "64gf": (352, 147.48, 2.4, 20, 328),
    "128gf": (456, 160.83, 2.52, 27, 264),
    "256gf": (640, 230.83, 2.53, 27, 373),
}
# Where torchvision's rounding of widths gives another network than the paper's.
_TORCHVISION_DEVIATES = ("regnetx_400mf", "regnety_800mf", "regnety_8gf")


def _regnet(parameters: tuple[int, float, float, int, int], **others: Any) -> Description:
    w0, wa, wm, depth, group_width = parameters
    return regnet_description(w0=w0, wa=wa, wm=wm, depth=depth, group_width=group_width, **others)


def _regnets() -> dict[str, Description]:
    x = {f"regnetx_{size}": _regnet(parameters) for size, parameters in _REGNETX.items()}
    y = {f"regnety_{size}": _regnet(parameters, se_ratio=0.25) for size, parameters in _REGNETY.items()}
    return x | y


def _large_regnets() -> dict[str, Description]:
    table = _REGNETY_LARGE.items()
    return {f"regnety_{size}": _regnet(parameters, se_ratio=0.25) for size, parameters in table}


def _torchvision_regnets() -> dict[str, Description]:
    presets = {}
    for name in _TORCHVISION_DEVIATES:
        family, size = name.split("_", 1)
        table, se_ratio = (_REGNETX, 0.0) if family == "regnetx" else (_REGNETY, 0.25)
        presets[f"{name}_tv"] = _regnet(table[size], se_ratio=se_ratio, rounding=generous_multiple)
    return presets


def _imagenet_resnet(block_type: str, depths: list[int], stage1_width: int, **options: Any) -> Description:
    return {
        "block_type": block_type,
        "num_blocks_per_stage": depths,
        "num_channels": [64, *(stage1_width * 2**i for i in range(4))],
        "strides": [1, 2, 2, 2],
        "stem": "conv7x7_s2_maxpool",
        "head": "linear",
        **options,
    }


def _imagenet_resnets() -> dict[str, Description]:
    presets = {
        "resnet18": _imagenet_resnet("basic", [2, 2, 2, 2], 64),
        "resnet34": _imagenet_resnet("basic", [3, 4, 6, 3], 64),
    }
    for layers, depths in {50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}.items():
        presets[f"resnet{layers}"] = _imagenet_resnet("bottleneck", depths, 256, bottleneck_ratio=4.0)
        presets[f"resnext{layers}_32x4d"] = _imagenet_resnet(
            "bottleneck", depths, 256, bottleneck_ratio=2.0, group_width=[4, 8, 16, 32]
        )
    for layers, depths in {26: [2, 2, 2, 2], 200: [3, 24, 36, 3]}.items():
        presets[f"resnet{layers}"] = _imagenet_resnet("bottleneck", depths, 256, bottleneck_ratio=4.0)
    for layers, depths in {50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}.items():
        presets[f"wide_resnet{layers}_2"] = _imagenet_resnet("bottleneck", depths, 256, bottleneck_ratio=2.0)
    for groups, width in ((32, 8), (64, 4)):
        presets[f"resnext101_{groups}x{width}d"] = _imagenet_resnet(
            "bottleneck",
            [3, 4, 23, 3],
            256,
            bottleneck_ratio=1.0,
            group_width=[width * 2**i for i in range(4)],
        )
    return presets


def _cifar_resnet(layers: int) -> Description:
    return {
        "block_type": "basic",
        "num_blocks_per_stage": (layers - 2) // 6,
        "num_channels": [16, 16, 32, 64],
        "strides": [1, 2, 2],
        "stem": "conv3x3_s1",
        "head": "linear",
    }


def _vgg(depths: list[int], widths: list[int], strides: list[int]) -> Description:
    return {
        "block_type": "vgg",
        "num_blocks_per_stage": depths,
        "num_channels": [64, *widths],
        "strides": strides,
        "stem": "conv3x3_s1",
        "head": "linear",
    }


def _vggs() -> dict[str, Description]:
    """VGG's rows of 3x3 convolutions (Simonyan and Zisserman, 2015, table 1), the first of them the stem.

    Striding stands for its pooling, and average pooling with one linear layer for its three large ones.
    """
    widths = [64, 128, 256, 512, 512]
    return {
        "vgg11_like": _vgg([1, 2, 2, 2], widths[1:], [2, 2, 2, 2]),
        "vgg13_like": _vgg([1, 2, 2, 2, 2], widths, [1, 2, 2, 2, 2]),
        "vgg16_like": _vgg([1, 2, 3, 3, 3], widths, [1, 2, 2, 2, 2]),
        "vgg19_like": _vgg([1, 2, 4, 4, 4], widths, [1, 2, 2, 2, 2]),
    }


def _cifar_regnets() -> dict[str, Description]:
    """RegNets for 32x32 images: a stem at stride 1, and the first two stages at full resolution."""
    changes = {"stem": "conv3x3_s1", "strides": [1, 1, 2, 2]}
    return {f"{name}_cifar": description | changes for name, description in _regnets().items()}


_CIFAR_RESNETS = (20, 32, 44, 56, 110)
PRESETS: dict[str, Description] = {
    **_regnets(),
    **_large_regnets(),
    **_torchvision_regnets(),
    **_imagenet_resnets(),
    **{f"resnet{layers}": _cifar_resnet(layers) for layers in _CIFAR_RESNETS},
    **_vggs(),
    **_cifar_regnets(),
}


def preset_names() -> list[str]:
    """The names of all presets, in the order of the zoo."""
    return list(PRESETS)


def preset_resolution(name: str) -> int:
    """Side in pixels of the images that the preset was made for: CIFAR's or ImageNet's."""
    small = name.endswith("_cifar") or name in {f"resnet{layers}" for layers in _CIFAR_RESNETS}
    return 32 if small else 224


def preset_description(name: str) -> Description:
    """The preset in the vocabulary of `network_spec`.

    Raises UserError where no preset has this name; the message gives the nearest ones.
    """
    if name not in PRESETS:
        nearest = get_close_matches(name.lower().replace("-", "_"), PRESETS, n=3)
        hint = f"did you mean {' or '.join(repr(match) for match in nearest)}?" if nearest else ""
        families = (
            "regnetx_*, regnety_*, resnet*, wide_resnet*, resnext*, vgg*_like; for small images *_cifar"
        )
        raise UserError(f"unknown preset '{name}'; {hint or 'the families are ' + families}")
    return deepcopy(PRESETS[name])
