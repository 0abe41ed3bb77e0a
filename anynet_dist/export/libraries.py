"""Weights under the names of other libraries, for their own networks: torchvision, timm and pycls.

Nothing but names changes, except that pycls feeds its networks BGR images, so the stem's input channels are
reversed. A network of torchvision or timm is known by what it is, not by what it is called here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from anynet_dist.export.formats import Function
from anynet_dist.inference.trained import TrainedNetwork
from anynet_dist.models.blocks import bottleneck_shape
from anynet_dist.models.convert import our_names
from anynet_dist.models.pretrained import IMAGENET_MEAN, IMAGENET_STD, timm_preset, torchvision_preset
from anynet_dist.models.registry import get_block, parameter_names
from anynet_dist.models.spec import NetworkSpec, StageSpec
from anynet_dist.models.vocabulary import network_spec
from anynet_dist.runs.file_names import MODEL
from anynet_dist.runs.network_file import write_tensors
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import write_json

logger = logging.getLogger(__name__)

OTHERS = "use --to onnx, torchscript or torch-export, which hold any network"


@dataclass(frozen=True)
class LibraryFormat:
    """A file of weights for a network of another library."""

    suffix: str
    write: Callable[[TrainedNetwork, Path], None]
    """Raises UserError where the library has no such network."""
    read: Callable[[TrainedNetwork, Path], Function]
    """The library's own network with the weights of the file, every one of which must fit."""


def torchvision_name(spec: NetworkSpec) -> str:
    """What torchvision calls the network. Raises UserError where it has no such one."""
    from torchvision import models

    return _architecture("torchvision", spec, models.list_models(module=models), torchvision_preset)


def timm_name(spec: NetworkSpec) -> str:
    """What timm calls the network. Raises UserError where it has no such one, or is missing."""
    return _architecture("timm", spec, _timm().list_models(), timm_preset)


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise UserError("--to timm needs timm, which is not installed: pip install timm") from None
    return timm


def _architecture(
    library: str, spec: NetworkSpec, names: Iterable[str], preset_of: Callable[[str], str | None]
) -> str:
    wanted = _shape(spec)
    for name in names:
        preset = preset_of(name)
        if preset and _shape(network_spec(preset=preset)) == wanted:
            return name
    raise UserError(f"{library} has no network with this stem and these stages; {OTHERS}")


def _shape(spec: NetworkSpec) -> tuple[Any, ...]:
    """What makes two networks the same but for their classes: each layer's kind, channels and groups."""
    stages = (_stage_shape(stage) for stage in spec.stages)
    return spec.stem.type, spec.stem.width, spec.stem.width_in, spec.head.type, *stages


def _stage_shape(stage: StageSpec) -> tuple[Any, ...]:
    options = {
        name: value
        for name, value in stage.options.items()
        if name in parameter_names(get_block(stage.block_type))
    }
    if options.keys() >= {"bottleneck_ratio", "group_width"}:  # one group may have been named or not
        ratio, group = options.pop("bottleneck_ratio"), options.pop("group_width")
        options["inner"] = bottleneck_shape(stage.width, ratio, group)
    return stage.block_type, stage.depth, stage.width, stage.stride, tuple(sorted(options.items()))


def _their_weights(theirs: nn.Module, trained: TrainedNetwork) -> dict[str, Tensor]:
    """The trained weights under the names that the library's network has for them."""
    ours = trained.network.state_dict()
    return {their_name: ours[name] for name, their_name in our_names(theirs.state_dict()).items()}


def _torchvision_network(trained: TrainedNetwork) -> nn.Module:
    from torchvision import models

    spec = trained.network.spec
    return models.get_model(torchvision_name(spec), weights=None, num_classes=spec.head.num_classes)


def _write_torchvision(trained: TrainedNetwork, path: Path) -> None:
    torch.save(_their_weights(_torchvision_network(trained), trained), path)
    logger.info("a state dict of torchvision's %s", torchvision_name(trained.network.spec))


def _read_torchvision(trained: TrainedNetwork, path: Path) -> Function:
    network = _torchvision_network(trained)
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()


# pycls' words for ours.
_PYCLS_STEMS = {
    "conv3x3_s2": "simple_stem_in",
    "conv7x7_s2_maxpool": "res_stem_in",
    "conv3x3_s1": "res_stem_cifar",
}
_PYCLS_BLOCKS = {
    "bottleneck": "res_bottleneck_block",
    "basic": "res_basic_block",
    "vanilla": "vanilla_block",
}
_PYCLS_LAYERS = ("a", "a_bn", "b", "b_bn", "c", "c_bn", "se.f_ex.0", "se.f_ex.2")
_PYCLS_SHORTCUT = ("proj", "bn")
_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def _pycls_names(spec: NetworkSpec) -> dict[str, str]:
    """Our name of each weight, with pycls' own."""
    inner = "" if spec.stages[0].block_type == "vanilla" else "f."
    layers = ["stem.conv", "stem.bn", "head.fc"]
    for stage, stated in enumerate(spec.stages, 1):
        for block in range(1, stated.depth + 1):
            names = (*(f"{inner}{layer}" for layer in _PYCLS_LAYERS), *_PYCLS_SHORTCUT)
            layers += [f"s{stage}.b{block}.{name}" for name in names]
    return our_names([f"{layer}.{tensor}" for layer in layers for tensor in _TENSORS])


def _pycls_config(trained: TrainedNetwork) -> dict[str, Any]:
    """The network in the options of pycls' own configs. Raises UserError where they cannot."""
    spec, side = trained.network.spec, trained.description.resolution
    blocks = {stage.block_type for stage in spec.stages}
    ratios = {stage.se_ratio for stage in spec.stages}
    plain = spec.stem.width_in == 3 and spec.head.type == "linear" and len(blocks) == len(ratios) == 1
    if not (plain and spec.stem.type in _PYCLS_STEMS and blocks <= _PYCLS_BLOCKS.keys()):
        raise UserError(f"pycls has no network with this stem, these stages and this head; {OTHERS}")
    network = {
        "STEM_TYPE": _PYCLS_STEMS[spec.stem.type],
        "STEM_W": spec.stem.width,
        "BLOCK_TYPE": _PYCLS_BLOCKS[blocks.pop()],
        "DEPTHS": [stage.depth for stage in spec.stages],
        "WIDTHS": [stage.width for stage in spec.stages],
        "STRIDES": [stage.stride for stage in spec.stages],
        "SE_ON": any(ratios),
        "SE_R": ratios.pop() or 0.25,
    }
    if network["BLOCK_TYPE"] == "res_bottleneck_block":
        shapes = [bottleneck_shape(s.width, s.bottleneck_ratio, s.group_width) for s in spec.stages]
        network["BOT_MULS"] = [1 / stage.bottleneck_ratio for stage in spec.stages]
        network["GROUP_WS"] = [width // groups for width, groups in shapes]
    crop = trained.description.crop_ratio or 1.0
    return {
        "MODEL": {"TYPE": "anynet", "NUM_CLASSES": spec.head.num_classes},
        "ANYNET": network,
        "TRAIN": {"DATASET": "imagenet", "IM_SIZE": side},
        "TEST": {"DATASET": "imagenet", "IM_SIZE": round(side / crop)},
    }


def _write_pycls(trained: TrainedNetwork, path: Path) -> None:
    config = _pycls_config(trained)
    ours = trained.network.state_dict()
    names = _pycls_names(trained.network.spec)
    state = {names[name]: tensor for name, tensor in ours.items()}
    state["stem.conv.weight"] = state["stem.conv.weight"].flip(1)
    epoch = trained.facts.get("epoch") or 0
    torch.save({"epoch": epoch, "model_state": state, "cfg": yaml.safe_dump(config, sort_keys=False)}, path)
    logger.info("a checkpoint of pycls for BGR images, as its loader of ImageNet gives them")
    normalisation = trained.description.mean, trained.description.std
    if normalisation != (IMAGENET_MEAN, IMAGENET_STD):
        logger.warning(
            "pycls' loader of ImageNet normalises by ImageNet's mean and std, not by those of this network"
        )


def _read_pycls(trained: TrainedNetwork, path: Path) -> Function:
    """pycls is in no package index: its names are turned back, strictly, into our network."""
    state = torch.load(path, weights_only=True)["model_state"]
    renamed = {
        name: state[theirs] for name, theirs in _pycls_names(trained.network.spec).items() if theirs in state
    }
    renamed["stem.conv.weight"] = renamed["stem.conv.weight"].flip(1)
    network = deepcopy(trained.network)
    network.load_state_dict(renamed)
    return network


LIBRARY_FORMATS = {
    "torchvision": LibraryFormat(".pth", _write_torchvision, _read_torchvision),
    "pycls": LibraryFormat(".pyth", _write_pycls, _read_pycls),
}


def write_timm_folder(trained: TrainedNetwork, folder: Path) -> None:
    """Write model.safetensors and config.json into `folder`, for timm's `local-dir:` and `hf-hub:`."""
    timm = _timm()
    spec, description = trained.network.spec, trained.description
    name = timm_name(spec)
    theirs = timm.create_model(name, num_classes=spec.head.num_classes)
    theirs.load_state_dict(_their_weights(theirs, trained))
    write_tensors(folder / MODEL, theirs, {"format": "pt"})
    layers = {key: theirs.pretrained_cfg.get(key) for key in ("pool_size", "first_conv", "classifier")}
    config = {
        "architecture": name,
        "num_classes": spec.head.num_classes,
        "num_features": spec.stages[-1].width,
        "pretrained_cfg": {
            "input_size": list(trained.input_shape),
            "interpolation": "bilinear",
            "crop_pct": description.crop_ratio or 1.0,
            "crop_mode": "center",
            "mean": list(description.mean),
            "std": list(description.std),
            "num_classes": spec.head.num_classes,
            **layers,
        },
        **({"label_names": list(description.classes)} if description.classes else {}),
    }
    write_json(folder / "config.json", config)
    logger.info("timm's %s", name)


def read_timm_folder(folder: Path) -> Function:
    """What timm makes of the folder."""
    network: nn.Module = _timm().create_model(f"local-dir:{folder}", pretrained=True)
    network.load_state_dict(load_file(str(folder / MODEL)))
    return network.eval()
