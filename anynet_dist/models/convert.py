"""Weights of other libraries' networks in our names: torchvision, timm and pycls, each known by its keys.

The networks compute the same, so nothing but names changes; except that pycls' ImageNet loader gives images
in BGR order, so the input channels of the stems that it trained are reversed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from anynet_dist.models.complexity import network_complexity
from anynet_dist.models.vocabulary import network_spec
from anynet_dist.models.zoo import preset_names
from anynet_dist.system.errors import UserError

logger = logging.getLogger(__name__)

StateDict = Mapping[str, Tensor]

Channels = Literal["rgb", "bgr", "ask"]
"""Order of the image channels that a network was trained on; "ask" where only its author knows."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
"""What DistributedDataParallel, torch.compile and modules around a network put before every name."""
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
SHOWN = 5
"""Layers that do not fit, named in one message."""


@dataclass(frozen=True, slots=True, eq=False)
class Naming:
    """How a library names layers; a layer's parameters and buffers keep their names."""

    library: str
    block: re.Pattern[str]
    """The start of a layer in a block; its groups are the stage, counted from 1, and the block."""
    first_block: int
    """The number of a stage's first block."""
    in_block: Mapping[str, str]
    """A block's layers: theirs, ours."""
    outside: Mapping[str, str]
    """The layers of stem and head: theirs, ours."""

    def ours(self, key: str) -> str | None:
        """Our name of `key`; None where the library has no such layer."""
        layer, _, tensor = key.rpartition(".")
        block = self.block.match(layer)
        if block is None:
            name = self.outside.get(layer)
            return name and f"{name}.{tensor}"
        name = self.in_block.get(layer[block.end() :])
        return name and f"stage{block[1]}.{int(block[2]) - self.first_block}.{name}.{tensor}"


_PLAIN = {f"{kind}{number}": f"{kind}{number}" for kind in ("conv", "bn") for number in (1, 2, 3)}
_SE = {"se.fc1": "se.fc1", "se.fc2": "se.fc2"}
_STEM_AND_HEAD = {"stem.conv": "stem.conv", "stem.bn": "stem.bn", "head.fc": "head.fc"}
_RESNET = Naming(
    "torchvision or timm ResNet",
    re.compile(r"layer(\d+)\.(\d+)\."),
    0,
    {**_PLAIN, "downsample.0": "shortcut.0", "downsample.1": "shortcut.1"},
    {"conv1": "stem.conv", "bn1": "stem.bn", "fc": "head.fc"},
)
_TORCHVISION_REGNET = Naming(
    "torchvision RegNet",
    re.compile(r"trunk_output\.block(\d+)\.block\d+-(\d+)\."),
    0,
    {
        **{f"f.{letter}.0": f"conv{number}" for number, letter in enumerate("abc", 1)},
        **{f"f.{letter}.1": f"bn{number}" for number, letter in enumerate("abc", 1)},
        **{f"f.{name}": name for name in _SE},
        "proj.0": "shortcut.0",
        "proj.1": "shortcut.1",
    },
    {"stem.0": "stem.conv", "stem.1": "stem.bn", "fc": "head.fc"},
)
_TIMM_REGNET = Naming(
    "timm RegNet",
    re.compile(r"s(\d+)\.b(\d+)\."),
    1,
    {
        **{f"conv{number}.conv": f"conv{number}" for number in (1, 2, 3)},
        **{f"conv{number}.bn": f"bn{number}" for number in (1, 2, 3)},
        **_SE,
        "downsample.conv": "shortcut.0",
        "downsample.bn": "shortcut.1",
    },
    _STEM_AND_HEAD,
)
_PYCLS = Naming(
    "pycls",
    re.compile(r"s(\d+)\.b(\d+)\."),
    1,
    {
        # A residual block keeps its layers in `f`; a vanilla block has them itself.
        **{f"{f}{letter}": f"conv{number}" for f in ("f.", "") for number, letter in enumerate("abc", 1)},
        **{f"{f}{letter}_bn": f"bn{number}" for f in ("f.", "") for number, letter in enumerate("abc", 1)},
        "f.se.f_ex.0": "se.fc1",
        "f.se.f_ex.2": "se.fc2",
        "proj": "shortcut.0",
        "bn": "shortcut.1",
    },
    _STEM_AND_HEAD,
)
NAMINGS = (_RESNET, _TORCHVISION_REGNET, _TIMM_REGNET, _PYCLS)


def refuse_known_others(state_dict: StateDict) -> None:
    """Refuse networks that are outside the space though most of their names are known, saying what they are.

    Raises UserError where it is such a network.
    """
    shapes = {bare_name(key): tensor.shape for key, tensor in state_dict.items()}
    deep_stem = len(shapes.get("conv1.0.weight", ())) == 4
    pooled_shortcut = any(
        re.fullmatch(r"layer\d+\.0\.downsample\.1\.weight", name) and len(shape) == 4
        for name, shape in shapes.items()
    )
    if deep_stem or pooled_shortcut:
        kind = "a ResNet-D" if deep_stem and pooled_shortcut else "a variant of ResNet"
        parts = ["a stem of three 3x3 convolutions"] * deep_stem
        parts += ["shortcuts that pool before their 1x1 convolution"] * pooled_shortcut
        raise UserError(f"this is {kind} ({' and '.join(parts)}), which no network here computes")


def our_names(keys: Iterable[str]) -> dict[str, str]:
    """Our name of each weight: the name it has there, which is ours too where we have no such layer.

    Raises UserError where the names are those of no library that we know.
    """
    keys = list(keys)
    naming = _naming_of(keys)
    bare = {key: bare_name(key) for key in keys}
    return {(naming and naming.ours(name)) or name: key for key, name in bare.items()}


def rename_state_dict(state_dict: StateDict, channels: Channels | None = None) -> dict[str, Tensor]:
    """The same tensors under the names of `our_names`, with a stem that takes RGB images.

    Without `channels` networks of pycls are taken to be trained on BGR, as its ImageNet loader gives it.

    Raises UserError where `our_names` does, or where `channels` must be given.
    """
    renamed = {ours: state_dict[theirs] for ours, theirs in our_names(state_dict).items()}
    stem = renamed.get("stem.conv.weight")
    if stem is None or stem.shape[1] != 3:
        return renamed
    if channels == "ask":
        raise UserError(
            "it does not state whether it was trained on RGB or BGR images: choose with --rgb or --bgr of"
            " 'anynet models import'"
        )
    if channels is None and _naming_of(state_dict) is _PYCLS:
        channels = "bgr"
        logger.warning("it may be trained on RGB or BGR images: taking BGR, as pycls' ImageNet loader gives")
    if channels == "bgr":
        logger.info("it takes BGR images: the input channels of the stem are reversed to RGB")
        renamed["stem.conv.weight"] = stem.flip(1)
    return renamed


def convert_state_dict(
    state_dict: StateDict, network: nn.Module, channels: Channels | None = None
) -> dict[str, Tensor]:
    """The weights of another library's network as `network.load_state_dict` takes them.

    Raises UserError where `rename_state_dict` does, or where the weights do not fit the network; the message
    names layers with both shapes, and presets that would fit.
    """
    refuse_known_others(state_dict)
    names, expected = our_names(state_dict), network.state_dict()
    renamed = rename_state_dict(state_dict, channels)
    for key, tensor in expected.items():  # old files do not count batches
        if key.endswith("num_batches_tracked"):
            renamed.setdefault(key, tensor)
    keys = [*expected, *(key for key in renamed if key not in expected)]
    misfits = (_misfit(key, names.get(key), renamed.get(key), expected.get(key)) for key in keys)
    problems = [problem for problem in misfits if problem]
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        lines = [*problems[:SHOWN], *more, *_fitting_presets(renamed)]
        raise UserError("\n  ".join(["the weights do not fit the model:", *lines]))
    return {key: renamed[key] for key in expected}


def _naming_of(keys: Iterable[str]) -> Naming | None:
    """The naming that knows most of the keys; None where they are ours already."""
    names = [bare_name(key) for key in keys]
    if any(name.startswith("stage1.") for name in names):
        return None
    known = [sum(naming.ours(name) is not None for name in names) for naming in NAMINGS]
    best = NAMINGS[known.index(max(known))]
    if not any(best.block.match(name) for name in names) or 2 * max(known) < len(names):
        libraries = ", ".join(naming.library for naming in NAMINGS)
        raise UserError(
            f"the names of the weights ({', '.join(names[:SHOWN]) or 'there are none'}, ...) are those of no "
            f"network that can be converted (known are {libraries})"
        )
    return best


def bare_name(key: str) -> str:
    """The name without the prefixes of what was around the network."""
    while key.startswith(PREFIXES):
        key = key.partition(".")[2]
    return key


def _misfit(key: str, their_name: str | None, found: Tensor | None, expected: Tensor | None) -> str | None:
    name = key if their_name in (key, None) else f"{key} (there {their_name})"
    if found is None:
        return f"{name}: the source lacks it, the model has {_shape(expected)}"
    if expected is None:
        return f"{name}: the source has {_shape(found)}, the model lacks it"
    if found.shape != expected.shape:
        return f"{name}: the source has {_shape(found)}, the model {_shape(expected)}"
    return None


def _shape(tensor: Tensor | None) -> tuple[int, ...]:
    return () if tensor is None else tuple(tensor.shape)


def _fitting_presets(renamed: StateDict) -> list[str]:
    """A line that names presets with as many parameters as the weights have, if there are any."""
    head = renamed.get("head.fc.weight")
    if head is None:
        return []
    params = sum(tensor.numel() for key, tensor in renamed.items() if not key.endswith(STATISTICS))
    specs = {name: network_spec(preset=name, num_classes=len(head)) for name in preset_names()}
    names = [name for name, spec in specs.items() if network_complexity(spec).params == params]
    return [f"presets with as many parameters ({params:,}): {', '.join(names)}"] if names else []
