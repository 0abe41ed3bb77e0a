"""Networks that others trained: from a local file, or from torchvision's and timm's own downloads.

A source is a path, `torchvision:NAME`, `torchvision:NAME.WEIGHTS` (such as resnet50.IMAGENET1K_V1) or
`timm:NAME`, also with timm's tag (such as regnetx_004.pycls_in1k).
"""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from anynet_dist.models.anynet import AnyNet, build_anynet
from anynet_dist.models.blurpool import was_blurred, without_blurpool
from anynet_dist.models.convert import StateDict, convert_state_dict, our_names, unwrap_checkpoint
from anynet_dist.models.zoo import preset_names
from anynet_dist.system.errors import UserError, nearest_name, unknown_name
from anynet_dist.system.files import require_regular_file

log = logging.getLogger(__name__)

Colour = tuple[float, float, float]

IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)
CHECKED_SIDE = 96
"""Side in pixels of the random images on which two networks are compared."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Weights from elsewhere and what is known of them."""

    name: str
    state_dict: StateDict
    network: nn.Module | None = None
    """The network itself, where the library that made it is at hand."""
    preset: str | None = None
    """Our preset of the same network, where the source's name says it."""
    classes: tuple[str, ...] = ()
    """Names of the classes, in the order of the outputs; empty where unknown."""
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    resolution: int = 224


@dataclass(frozen=True, kw_only=True, eq=False)
class Imported:
    """A network of ours with the weights of a source."""

    network: AnyNet
    model: dict[str, Any]
    """Arguments of `build_anynet` that give this network."""
    difference: float | None
    """Largest difference from the source's own outputs; None where they could not be computed."""


def read_source(source: str) -> Source:
    """Read a file of weights, or have torchvision or timm download their own.

    Raises:
        UserError: there is no such file or network, the file holds no weights, or the download failed.
    """
    library, colon, name = source.partition(":")
    if colon and library in LIBRARIES:
        return LIBRARIES[library](name)
    require_regular_file(source)
    if not Path(source).is_file():
        names = " or ".join(f"{library}:NAME" for library in LIBRARIES)
        raise UserError(f"{source}: there is no such file; name a file of weights, or {names}")
    state_dict = read_weights(Path(source))
    log.info("%s does not say how images were normalised: taking ImageNet's mean and std, 224 pixels", source)
    return Source(name=source, state_dict=state_dict)


def import_network(source: Source, model: Mapping[str, Any]) -> Imported:
    """Build the network of the description `model` (arguments of `build_anynet`) with the source's weights.

    What the description leaves open of classes and image channels is as in the source. Where the source's own
    network is at hand, both are run on the same random images.

    Raises:
        UserError: the weights do not fit, or fit but the networks compute something else.
    """
    try:
        if was_blurred(source.state_dict):
            if model.get("blurpool") is False:
                raise UserError("its network blurs before striding: leave out blurpool: false")
            source = replace(source, state_dict=without_blurpool(source.state_dict))
            model = {**model, "blurpool": True}
        model = {**_shape_of(source), **model}
        network = build_anynet(**model).eval()
        network.load_state_dict(convert_state_dict(source.state_dict, network))
    except UserError as error:
        raise UserError(f"{source.name}: {error}") from None
    return Imported(network=network, model=model, difference=_difference(source, network))


def _shape_of(source: Source) -> dict[str, int]:
    """Number of classes, and of the image's channels where it is not 3."""
    names = our_names(source.state_dict)
    shape = {}
    if "head.fc.weight" in names:
        shape["num_classes"] = len(source.state_dict[names["head.fc.weight"]])
    if "stem.conv.weight" in names:
        shape["in_channels"] = source.state_dict[names["stem.conv.weight"]].shape[1]
    return {key: value for key, value in shape.items() if (key, value) != ("in_channels", 3)}


def _difference(source: Source, network: AnyNet) -> float | None:
    if source.network is None:
        return None
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, network.spec.stem.width_in, CHECKED_SIDE, CHECKED_SIDE, generator=generator)
    with torch.no_grad():
        theirs, ours = source.network.eval()(images), network(images)
    difference = float((theirs - ours).abs().max())
    if not difference <= 1e-4 * float(theirs.abs().max()):
        raise UserError(
            f"{source.name}: its weights fit the model, but its outputs differ by up to {difference:.3g}: "
            f"it computes something that the model does not"
        )
    return difference


def read_weights(path: Path) -> StateDict:
    """The state dict in a safetensors file or in one that torch.load reads without running code.

    Raises:
        UserError: the file is damaged, holds no state dict, or objects that only running code could load.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(str(path))
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is no file of weights that can be read safely: {reason}") from None
    except (SafetensorError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} is not a whole file of weights: {error}") from None
    try:
        return unwrap_checkpoint(checkpoint)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _from_torchvision(name: str) -> Source:
    from torchvision import models

    architecture, _, tag = name.partition(".")
    _check_network("torchvision", architecture, models.list_models(module=models))
    variants = models.get_model_weights(architecture)
    _check_weights(f"torchvision's {architecture}", tag or "DEFAULT", variants.__members__)
    weights = variants[tag or "DEFAULT"]
    log.info("torchvision's weights of %s: %s", architecture, weights.name)
    network = _downloaded("torchvision", name, lambda: models.get_model(architecture, weights=weights))
    preparation = weights.transforms()
    return Source(
        name=f"torchvision:{name}",
        state_dict=network.state_dict(),
        network=network,
        preset=torchvision_preset(architecture),
        classes=tuple(weights.meta["categories"]),
        mean=tuple(preparation.mean),
        std=tuple(preparation.std),
        resolution=preparation.crop_size[0],
    )


def _from_timm(name: str) -> Source:
    try:
        import timm
        from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
    except ImportError:
        raise UserError(f"timm:{name} needs timm: pip install timm") from None
    architecture, _, tag = name.partition(".")
    _check_network("timm", architecture, timm.list_models())
    if tag:
        known = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
        _check_weights(f"timm's {architecture}", tag, known)
    network = _downloaded("timm", name, lambda: timm.create_model(name, pretrained=True))
    settings: Any = network.pretrained_cfg
    log.info("timm's weights of %s: %s", architecture, settings["tag"])
    subset = infer_imagenet_subset(network)
    return Source(
        name=f"timm:{name}",
        state_dict=network.state_dict(),
        network=network,
        preset=timm_preset(architecture),
        classes=tuple(ImageNetInfo(subset).label_descriptions()) if subset else (),
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        resolution=settings["input_size"][-1],
    )


LIBRARIES: dict[str, Callable[[str], Source]] = {"torchvision": _from_torchvision, "timm": _from_timm}


def _check_network(library: str, name: str, known: Collection[str]) -> None:
    """Refuse an unknown name; the libraries have too many to list."""
    if name not in known:
        nearest = nearest_name(name, known)
        hint = f"; did you mean '{nearest}'?" if nearest else ""
        raise UserError(f"{library} has no network '{name}'{hint}")


def _check_weights(network: str, tag: str, known: Collection[str]) -> None:
    if tag not in known:
        raise unknown_name(f"weights of {network}", tag, known)


def _downloaded(library: str, name: str, load: Callable[[], nn.Module]) -> nn.Module:
    """What `load` returns; libraries fail in many ways, each of which is told as it is."""
    try:
        return load()
    except Exception as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{library} could not load its weights of {name} ({cause}); without a connection, "
            f"download the file elsewhere and import it by its path"
        ) from error


def torchvision_preset(name: str) -> str | None:
    """Our preset of torchvision's network; three of its RegNets are not the paper's."""
    preset = re.sub(r"^regnet_([xy])_", r"regnet\1_", name)
    return _existing(f"{preset}_tv") or _existing(preset)


def timm_preset(name: str) -> str | None:
    """Our preset of timm's network; timm counts RegNets' flops in 100 MF: regnetx_016 has 1.6 GF."""
    regnet = re.fullmatch(r"(regnet[xy])_(\d{3})(_tv)?", name)
    if not regnet:
        return _existing(name)
    whole, tenths = divmod(int(regnet[2]), 10)
    size = f"{whole}_{tenths}gf" if whole and tenths else f"{whole}gf" if whole else f"{tenths}00mf"
    return _existing(f"{regnet[1]}_{size}{regnet[3] or ''}")


def _existing(preset: str) -> str | None:
    return preset if preset in preset_names() else None
