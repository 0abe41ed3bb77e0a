"""What a checkpoint of timm's or torchvision's training scripts states of its network: its name and options.

Where the library is at hand its network is built, so that outputs can be compared and not shapes alone.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anynet_dist.models.checkpoint_files import StateDict
from anynet_dist.models.convert import bare_name
from anynet_dist.system.errors import UserError

WITHOUT_EFFECT = ("bn_momentum", "drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last")
"""timm's options that matter in training alone."""
COMPARED = (
    "act_layer",
    "aa_layer",
    "avg_down",
    "base_width",
    "block_reduce_first",
    "bn_eps",
    "cardinality",
    "down_kernel_size",
    "global_pool",
    "norm_layer",
    "output_stride",
    "replace_stem_pool",
    "stem_type",
    "stem_width",
)
"""timm's options with which its network is built, to compare its outputs. None of them names a file."""


class MisfitError(Exception):
    """Weights are not of the network that is said to be theirs."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A network of a library, as the file with its weights names it."""

    library: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments that change the network of that name."""
    classes: tuple[str, ...] = ()
    images: dict[str, Any] = field(default_factory=dict)
    """What is said of its images: mean, std, resolution, crop_ratio."""


def find_origin(checkpoint: object, path: Path) -> Origin | None:
    """The network that a checkpoint's options name, or timm's config.json beside the file; None without."""
    if isinstance(checkpoint, Mapping):
        args = checkpoint.get("args")
        options = vars(args) if isinstance(args, Namespace) else args
        if isinstance(options, Mapping) and isinstance(options.get("model"), str):
            if "arch" in checkpoint and "version" in checkpoint:
                return _of_timm_training(options)
            if "lr_scheduler" in checkpoint and "data_path" in options:
                return _of_torchvision_training(options)
    return _of_timm_config(path.parent / "config.json")


def _of_timm_training(args: Mapping[str, Any]) -> Origin:
    changes = args.get("model_kwargs")
    options = {"global_pool": args.get("gp"), "bn_eps": args.get("bn_eps")}
    options |= dict(changes) if isinstance(changes, Mapping) else {}
    size = args.get("input_size") or [args.get("img_size")]
    images = {"mean": args.get("mean"), "std": args.get("std"), "crop_ratio": args.get("crop_pct")}
    return Origin(
        library="timm",
        name=args["model"],
        options=_given(options),
        images=_usable({**images, "resolution": size[-1]}),
    )


def _of_torchvision_training(args: Mapping[str, Any]) -> Origin:
    crop, resize = args.get("val_crop_size"), args.get("val_resize_size")
    ratio = crop / resize if crop and resize and _is_size(crop) and _is_size(resize) else None
    images = _usable({"resolution": crop, "crop_ratio": ratio})
    return Origin(library="torchvision", name=args["model"], images=images)


def _of_timm_config(file: Path) -> Origin | None:
    """As timm saves it beside the weights for the Hugging Face hub."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        settings = config["pretrained_cfg"]
        size = settings.get("input_size") or [None]
        images = {"mean": settings.get("mean"), "std": settings.get("std")}
        images |= {"crop_ratio": settings.get("crop_pct"), "resolution": size[-1]}
        options = {"global_pool": config.get("global_pool"), **(config.get("model_args") or {})}
        names = config.get("label_names") or settings.get("label_names") or ()
        return Origin(
            library="timm",
            name=str(config["architecture"]),
            options=_given(options),
            classes=tuple(map(str, names)),
            images=_usable(images),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # another library's config.json, or none


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None and key not in WITHOUT_EFFECT}


def _usable(images: Mapping[str, Any]) -> dict[str, Any]:
    """What is of the right kind; a training script's options may hold anything."""
    usable: dict[str, Any] = {}
    for key in ("mean", "std"):
        colour = images.get(key)
        if isinstance(colour, list | tuple) and len(colour) == 3 and all(map(_is_number, colour)):
            usable[key] = tuple(map(float, colour))
    if _is_size(images.get("resolution")):
        usable["resolution"] = images["resolution"]
    ratio: Any = images.get("crop_ratio")
    if _is_number(ratio) and 0 < ratio <= 1:
        usable["crop_ratio"] = float(ratio)
    return usable


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def original_network(origin: Origin, state_dict: StateDict, classes: int, channels: int) -> nn.Module | None:
    """The library's own network with the weights; None where it is not at hand.

    Raises MisfitError where the weights are not of that network, and UserError where options change the
    network in a way that is not known here, or it cannot be built.
    """
    try:
        network = _build(origin, classes, channels)
    except ImportError:
        return None
    weights = {bare_name(key): tensor for key, tensor in state_dict.items()}
    try:
        missing, unexpected = network.load_state_dict(weights, strict=False)
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    except RuntimeError:
        missing, unexpected = ["another shape"], []
    if missing or unexpected:
        raise MisfitError(f"it claims to be {origin.library}'s {origin.name}, but its weights are not")
    return network.eval()


def _build(origin: Origin, classes: int, channels: int) -> nn.Module:
    if origin.library == "torchvision":
        from torchvision import models

        if origin.name not in models.list_models(module=models):
            raise ImportError
        return models.get_model(origin.name, weights=None, num_classes=classes)
    import timm

    architecture = origin.name.partition(".")[0]
    if architecture not in timm.list_models():  # never a name that downloads
        raise ImportError
    for key, value in origin.options.items():
        if key not in COMPARED or not isinstance(value, bool | int | float | str):
            raise UserError(f"it is timm's {origin.name} changed by {key}={value!r}, which is not known here")
    try:
        with torch.random.fork_rng(devices=[]):
            return timm.create_model(architecture, num_classes=classes, in_chans=channels, **origin.options)
    except Exception as error:  # whatever an option of another version may lead to
        cause = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"timm cannot build its {origin.name} with {origin.options}: {cause}") from None
