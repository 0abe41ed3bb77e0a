"""pycls' configs: the network that one describes, and the images that its loader gives.

A checkpoint of pycls carries its config as YAML text, of every option. A config file sets a few of them; for
the others pycls' defaults hold.
"""

from __future__ import annotations

import logging
from ast import literal_eval
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from anynet_dist.models.convert import Channels
from anynet_dist.models.regnet import regnet_description
from anynet_dist.models.vocabulary import network_spec
from anynet_dist.models.zoo import preset_names
from anynet_dist.system.errors import UserError

logger = logging.getLogger(__name__)

Colour = tuple[float, float, float]

DEFAULTS: dict[str, Any] = {
    "MODEL.TYPE": "",
    "MODEL.DEPTH": 0,
    "MODEL.NUM_CLASSES": 10,
    "MODEL.LOSS_FUN": "cross_entropy",
    "MODEL.ACTIVATION_FUN": "relu",
    "RESNET.TRANS_FUN": "basic_transform",
    "RESNET.NUM_GROUPS": 1,
    "RESNET.WIDTH_PER_GROUP": 64,
    "RESNET.STRIDE_1X1": True,
    "ANYNET.STEM_TYPE": "simple_stem_in",
    "ANYNET.STEM_W": 32,
    "ANYNET.BLOCK_TYPE": "res_bottleneck_block",
    "ANYNET.DEPTHS": [],
    "ANYNET.WIDTHS": [],
    "ANYNET.STRIDES": [],
    "ANYNET.BOT_MULS": [],
    "ANYNET.GROUP_WS": [],
    "ANYNET.HEAD_W": 0,
    "ANYNET.SE_ON": False,
    "ANYNET.SE_R": 0.25,
    "REGNET.STEM_TYPE": "simple_stem_in",
    "REGNET.STEM_W": 32,
    "REGNET.BLOCK_TYPE": "res_bottleneck_block",
    "REGNET.STRIDE": 2,
    "REGNET.SE_ON": False,
    "REGNET.SE_R": 0.25,
    "REGNET.DEPTH": 10,
    "REGNET.W0": 32,
    "REGNET.WA": 5.0,
    "REGNET.WM": 2.5,
    "REGNET.GROUP_W": 16,
    "REGNET.BOT_MUL": 1.0,
    "REGNET.HEAD_W": 0,
    "BN.EPS": 1e-5,
    "BN.MOM": 0.1,
    "BN.USE_PRECISE_STATS": True,
    "BN.NUM_SAMPLES_PRECISE": 8192,
    "BN.ZERO_INIT_FINAL_GAMMA": False,
    "BN.USE_CUSTOM_WEIGHT_DECAY": False,
    "BN.CUSTOM_WEIGHT_DECAY": 0.0,
    "OPTIM.OPTIMIZER": "sgd",
    "OPTIM.BASE_LR": 0.1,
    "OPTIM.MIN_LR": 0.0,
    "OPTIM.LR_POLICY": "cos",
    "OPTIM.STEPS": [],
    "OPTIM.LR_MULT": 0.1,
    "OPTIM.MAX_EPOCH": 200,
    "OPTIM.MOMENTUM": 0.9,
    "OPTIM.DAMPENING": 0.0,
    "OPTIM.NESTEROV": True,
    "OPTIM.BETA1": 0.9,
    "OPTIM.BETA2": 0.999,
    "OPTIM.WEIGHT_DECAY": 5e-4,
    "OPTIM.BIAS_USE_CUSTOM_WEIGHT_DECAY": False,
    "OPTIM.BIAS_CUSTOM_WEIGHT_DECAY": 0.0,
    "OPTIM.WARMUP_FACTOR": 0.1,
    "OPTIM.WARMUP_EPOCHS": 0,
    "OPTIM.EMA_ALPHA": 1e-5,
    "OPTIM.EMA_UPDATE_PERIOD": 32,
    "TRAIN.DATASET": "",
    "TRAIN.SPLIT": "train",
    "TRAIN.BATCH_SIZE": 128,
    "TRAIN.IM_SIZE": 224,
    "TRAIN.WEIGHTS": "",
    "TRAIN.MIXED_PRECISION": False,
    "TRAIN.LABEL_SMOOTHING": 0.0,
    "TRAIN.MIXUP_ALPHA": 0.0,
    "TRAIN.CUTMIX_ALPHA": 0.0,
    "TRAIN.PCA_STD": 0.1,
    "TRAIN.AUGMENT": "",
    "TEST.DATASET": "",
    "TEST.SPLIT": "val",
    "TEST.BATCH_SIZE": 200,
    "TEST.IM_SIZE": 256,
    "DATA_LOADER.MODE": "pytorch",
    "NUM_GPUS": 1,
    "RNG_SEED": 1,
    "LOG_PERIOD": 10,
}
"""pycls' options that matter here, and its defaults."""
STEMS = {
    "res_stem_cifar": "conv3x3_s1",
    "res_stem_in": "conv7x7_s2_maxpool",
    "simple_stem_in": "conv3x3_s2",
}
BLOCKS = {"vanilla_block": "vanilla", "res_basic_block": "basic", "res_bottleneck_block": "bottleneck"}
RESNET_DEPTHS = {50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}
MOST_CHARACTERS = 2**20


@dataclass(frozen=True)
class PyclsConfig:
    """Options by dotted name."""

    values: dict[str, Any]
    """Those of `DEFAULTS`, as set or by default."""
    given: dict[str, Any]
    """All that the text sets."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """How pycls prepares evaluated images."""

    channels: Channels
    mean: Colour
    """In RGB order, in 0..1, as `std`."""
    std: Colour
    resolution: int
    crop_ratio: float | None = None
    """Fraction of the shorter side that the centre crop keeps; None for images taken whole."""


class _Loader(yaml.SafeLoader):
    """Also reads the tuples that YACS writes, as lists."""


def _as_list(loader: yaml.SafeLoader, node: Any) -> list[Any]:
    return loader.construct_sequence(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _as_list)


def read_pycls_config(text: str) -> PyclsConfig:
    """The options in the YAML of a pycls config, or in that of a checkpoint.

    Raises UserError where it is no such YAML, or an option has a value of another kind than pycls' own.
    """
    try:
        if len(text) > MOST_CHARACTERS:
            raise UserError(f"a config of pycls has no {len(text):,} characters")
        tree = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"it is no YAML that can be read: {' '.join(str(error).split())}") from None
    if not isinstance(tree, Mapping):
        raise UserError("it holds no options such as MODEL: {TYPE: regnet}")
    if "SETUP" in tree:
        raise UserError("it describes a sweep of pycls, not one run: import a config that the sweep made")
    given: dict[str, Any] = {}
    for section, content in tree.items():
        if isinstance(content, Mapping):
            given |= {f"{section}.{key}": _decoded(value) for key, value in content.items()}
        else:
            given[str(section)] = _decoded(content)
    checked = {key: _checked(key, value, DEFAULTS[key]) for key, value in given.items() if key in DEFAULTS}
    return PyclsConfig({**DEFAULTS, **checked}, given)


def _decoded(value: Any) -> Any:
    """A string that spells a Python literal is that literal, as in YACS; YAML 1.1 takes 5e-5 for a string."""
    if not isinstance(value, str):
        return value
    try:
        return literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def _checked(key: str, value: Any, default: Any) -> Any:
    if isinstance(default, list):
        numbers = list(value) if isinstance(value, list | tuple) else None
        if numbers is not None and all(_is_number(number) for number in numbers):
            return numbers
        raise UserError(f"{key} must be a list of numbers, not {value!r}")
    if isinstance(default, float) and _is_number(value):
        return float(value)
    if type(value) is not type(default):
        raise UserError(f"{key} must be of the kind of {default!r}, not {value!r}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def pycls_network(config: PyclsConfig) -> dict[str, Any]:
    """The network as arguments of `build_anynet`: the name of a preset where there is one of its shape.

    Raises UserError where it is none of this space, or computes something that no block here computes.
    """
    values = config.values
    kinds = {"anynet": _anynet, "regnet": _regnet, "resnet": _resnet}
    kind = values["MODEL.TYPE"]
    if kind not in kinds:
        raise UserError(
            f"MODEL.TYPE is '{kind}', which is no network of this space (pycls' {', '.join(kinds)} are)"
        )
    _refuse_other_arithmetic(values, kind)
    description = kinds[kind](values)
    description = {key: value for key, value in description.items() if value is not None}
    description["num_classes"] = values["MODEL.NUM_CLASSES"]
    if values["BN.ZERO_INIT_FINAL_GAMMA"]:
        description["zero_init_residual"] = True
    return _by_name(description)


def _refuse_other_arithmetic(values: Mapping[str, Any], kind: str) -> None:
    section = kind.upper()
    expected = {"MODEL.ACTIVATION_FUN": "relu", "BN.EPS": 1e-5}
    if kind != "resnet":
        expected[f"{section}.HEAD_W"] = 0
    for key, value in expected.items():
        if values[key] != value:
            raise UserError(f"{key} is {values[key]}: networks here compute with {value} only")


def _part(values: Mapping[str, Any], key: str, known: Mapping[str, str]) -> str:
    if values[key] not in known:
        raise UserError(f"{key} is '{values[key]}', which does not exist here (known: {', '.join(known)})")
    return known[values[key]]


def _ratio(multiplier: float) -> float:
    """The bottleneck ratio: pycls multiplies the width by a number where the design space divides."""
    if multiplier <= 0:
        raise UserError(f"a bottleneck multiplier must be above 0, not {multiplier}")
    return 1 / multiplier


def _anynet(values: Mapping[str, Any]) -> dict[str, Any]:
    lists = {name: values[f"ANYNET.{name}"] for name in ("DEPTHS", "WIDTHS", "STRIDES")}
    if len({len(numbers) for numbers in lists.values()}) > 1 or not lists["DEPTHS"]:
        counts = ", ".join(f"{name} {len(numbers)}" for name, numbers in lists.items())
        raise UserError(f"ANYNET must have one value per stage in each list (there are: {counts})")
    description = {
        "stem": _part(values, "ANYNET.STEM_TYPE", STEMS),
        "block_type": _part(values, "ANYNET.BLOCK_TYPE", BLOCKS),
        "num_blocks_per_stage": lists["DEPTHS"],
        "num_channels": [values["ANYNET.STEM_W"], *lists["WIDTHS"]],
        "strides": lists["STRIDES"],
    }
    if description["block_type"] == "bottleneck":
        description["bottleneck_ratio"] = [_ratio(each) for each in values["ANYNET.BOT_MULS"]] or 1.0
        description["group_width"] = values["ANYNET.GROUP_WS"] or None
        description["se_ratio"] = values["ANYNET.SE_R"] if values["ANYNET.SE_ON"] else 0.0
    return description


def _regnet(values: Mapping[str, Any]) -> dict[str, Any]:
    description = regnet_description(
        w0=values["REGNET.W0"],
        wa=values["REGNET.WA"],
        wm=values["REGNET.WM"],
        depth=values["REGNET.DEPTH"],
        group_width=values["REGNET.GROUP_W"],
        bottleneck_ratio=_ratio(values["REGNET.BOT_MUL"]),
        se_ratio=values["REGNET.SE_R"] if values["REGNET.SE_ON"] else 0.0,
        stem_width=values["REGNET.STEM_W"],
    )
    description["stem"] = _part(values, "REGNET.STEM_TYPE", STEMS)
    description["strides"] = values["REGNET.STRIDE"]
    description["block_type"] = _part(values, "REGNET.BLOCK_TYPE", BLOCKS)
    if description["block_type"] != "bottleneck":
        for key in ("bottleneck_ratio", "group_width", "se_ratio"):
            del description[key]
    return description


def _resnet(values: Mapping[str, Any]) -> dict[str, Any]:
    depth = values["MODEL.DEPTH"]
    if "cifar" in values["TRAIN.DATASET"]:
        if (depth - 2) % 6 or depth < 8:
            raise UserError(f"MODEL.DEPTH is {depth}; a ResNet for CIFAR has 6n + 2 layers")
        return {
            "block_type": "basic",
            "num_blocks_per_stage": [(depth - 2) // 6] * 3,
            "num_channels": [16, 16, 32, 64],
            "strides": [1, 2, 2],
            "stem": "conv3x3_s1",
        }
    if depth not in RESNET_DEPTHS:
        raise UserError(f"MODEL.DEPTH is {depth}; pycls' ResNets have {', '.join(map(str, RESNET_DEPTHS))}")
    if values["RESNET.STRIDE_1X1"]:
        raise UserError(
            "RESNET.STRIDE_1X1 is true, as by default: blocks halve the resolution in their first 1x1"
            " convolution. Those here do it in the 3x3, as torchvision's; to train from scratch, set it to"
            " False"
        )
    groups, width = values["RESNET.NUM_GROUPS"], values["RESNET.WIDTH_PER_GROUP"]
    return {
        "block_type": "bottleneck",
        "num_blocks_per_stage": RESNET_DEPTHS[depth],
        "num_channels": [64, 256, 512, 1024, 2048],
        "bottleneck_ratio": _ratio(groups * width / 256),
        "group_width": [width * 2**stage for stage in range(4)],
        "strides": [1, 2, 2, 2],
        "stem": "conv7x7_s2_maxpool",
    }


def _by_name(description: dict[str, Any]) -> dict[str, Any]:
    """The preset of the same shape with what it leaves open, else the description as it is."""
    spec = network_spec(**description)
    rest: dict[str, Any] = {
        key: description[key] for key in ("num_classes", "zero_init_residual") if key in description
    }
    for preset in preset_names():
        named = network_spec(preset=preset, **rest)
        if (named.stem, named.head) == (spec.stem, spec.head) and _shapes(named) == _shapes(spec):
            return {"preset": preset, **rest}
    return description


def _shapes(spec: Any) -> list[tuple[Any, ...]]:
    """What stages are, where one group and a group as wide as the 3x3 are the same."""
    shapes = []
    for stage in spec.stages:
        inner = round(stage.width / stage.bottleneck_ratio)
        shape = (stage.block_type, stage.depth, stage.width, stage.stride)
        shapes.append((*shape, inner, stage.group_width or inner, stage.se_ratio))
    return shapes


def pycls_images(config: PyclsConfig) -> Images:
    """The images that the loader of the config's data set gives; ImageNet's where the data set is not known.

    pycls reads ImageNet with OpenCV, normalises it in RGB order and turns it to BGR; it reads CIFAR-10's own
    files, and `.ffcv` files, in RGB.
    """
    values = config.values
    size, dataset = values["TRAIN.IM_SIZE"], values["TRAIN.DATASET"]
    if dataset == "cifar10":
        mean, std = _of_255(125.3, 123.0, 113.9), _of_255(63.0, 62.1, 66.7)
        return Images(channels="rgb", mean=mean, std=std, resolution=size)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    if values["DATA_LOADER.MODE"] == "ffcv":
        if not values["TRAIN.AUGMENT"]:  # its normalisation then takes integers
            mean, std = _of_255(123, 116, 103), _of_255(58, 57, 57)
        return Images(channels="rgb", mean=mean, std=std, resolution=size, crop_ratio=224 / 256)
    if dataset != "imagenet":
        logger.warning("pycls has no data set '%s': taking ImageNet's mean and std", dataset)
    channels: Channels = "bgr" if dataset == "imagenet" else "ask"
    scale = values["TEST.IM_SIZE"]
    ratio = min(1.0, size / scale) if scale else None
    return Images(channels=channels, mean=mean, std=std, resolution=size, crop_ratio=ratio)


def _of_255(red: float, green: float, blue: float) -> Colour:
    return (red / 255, green / 255, blue / 255)
