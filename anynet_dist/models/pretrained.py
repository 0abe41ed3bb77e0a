"""Networks that others trained: from a local file, or from torchvision's and timm's own downloads.

A source is a path, `torchvision:NAME`, `torchvision:NAME.WEIGHTS` (such as resnet50.IMAGENET1K_V1) or
`timm:NAME`, also with timm's tag (such as regnetx_004.pycls_in1k). A file that states which network
it belongs to, as the checkpoints of training scripts do, is taken at its word, and the word is checked.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anynet_dist.models.anynet import AnyNet, build_anynet
from anynet_dist.models.blurpool import was_blurred, without_blurpool
from anynet_dist.models.checkpoint_files import StateDict, Weights, choose_weights, read_checkpoint
from anynet_dist.models.convert import Channels, convert_state_dict, our_names, refuse_known_others
from anynet_dist.models.origins import MisfitError, Origin, find_origin, original_network
from anynet_dist.models.pycls import pycls_images, pycls_network, read_pycls_config
from anynet_dist.models.spec import NetworkSpec
from anynet_dist.models.vocabulary import network_spec
from anynet_dist.models.zoo import preset_names
from anynet_dist.system.errors import UserError, nearest_name, unknown_name
from anynet_dist.system.files import require_regular_file

logger = logging.getLogger(__name__)

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
    """Our preset of the same network, where the source's name gives it."""
    model: dict[str, Any] | None = None
    """The network as arguments of `build_anynet`, where the source describes it."""
    channels: Channels | None = None
    """Order of the channels of its images; None where the names of the weights show it."""
    classes: tuple[str, ...] = ()
    """Names of the classes, in the order of the outputs; empty where unknown."""
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    resolution: int = 224
    crop_ratio: float | None = None
    """Fraction of the shorter side that the centre crop of evaluation keeps, where it is known."""

    @property
    def description(self) -> dict[str, Any] | None:
        """The network as far as the source describes it."""
        return self.model or ({"preset": self.preset} if self.preset else None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Imported:
    """Our network with the weights of a source."""

    network: AnyNet
    model: dict[str, Any]
    """Arguments of `build_anynet` that give this network."""
    difference: float | None
    """Largest difference from the source's own outputs; None where they could not be computed."""


def read_source(source: str, weights: Weights = "best") -> Source:
    """Read a file of weights, or have torchvision or timm download their own.

    `weights` chooses in a checkpoint that holds a moving average too, as `choose_weights` does.

    Raises UserError where there is no such file or network, the file holds no weights, its network computes
    what none of ours does, or the download failed.
    """
    library, colon, name = source.partition(":")
    if colon and library in LIBRARIES:
        if weights != "best":
            raise UserError(f"{source} comes with one set of weights: --weights {weights} is for checkpoints")
        return LIBRARIES[library](name)
    require_regular_file(source)
    if not Path(source).is_file():
        names = " or ".join(f"{library}:NAME" for library in LIBRARIES)
        raise UserError(f"{source}: there is no such file; name a file of weights, or {names}")
    checkpoint = read_checkpoint(Path(source))
    try:
        return _from_checkpoint(source, checkpoint, choose_weights(checkpoint, weights))
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _from_checkpoint(name: str, checkpoint: object, state_dict: StateDict) -> Source:
    refuse_known_others(state_dict)
    if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get("cfg"), str):
        return _trained_by_pycls(name, checkpoint["cfg"], state_dict)
    origin = find_origin(checkpoint, Path(name))
    if origin:
        return _trained_from(origin, name, state_dict)
    logger.info(
        "%s does not state how images were normalised: taking ImageNet's mean and std, 224 pixels", name
    )
    return Source(name=name, state_dict=state_dict)


def _trained_by_pycls(name: str, text: str, state_dict: StateDict) -> Source:
    config = read_pycls_config(text)
    images, model = pycls_images(config), pycls_network(config)
    logger.info(
        "by the config of pycls in %s: %s, trained on %s images of %d pixels",
        *(name, model.get("preset", "an AnyNet"), images.channels.upper(), images.resolution),
    )
    return Source(name=name, state_dict=state_dict, model=model, **vars(images))


def _trained_from(origin: Origin, name: str, state_dict: StateDict) -> Source:
    logger.info("by its own options %s is %s's %s", name, origin.library, origin.name)
    shape = _shape_of(state_dict)
    classes, channels = shape.get("num_classes", 0), shape.get("in_channels", 3)
    try:
        network = original_network(origin, state_dict, classes, channels)
    except MisfitError as error:
        logger.warning("%s: %s", name, error)
        return Source(name=name, state_dict=state_dict, **origin.images)
    settings = getattr(network, "pretrained_cfg", None) or {}
    images = {"mean": settings.get("mean"), "std": settings.get("std"), **origin.images}
    find_preset = torchvision_preset if origin.library == "torchvision" else timm_preset
    return Source(
        name=name,
        state_dict=state_dict,
        network=network,
        preset=find_preset(origin.name.partition(".")[0]),
        classes=origin.classes if len(origin.classes) == classes else (),
        **{key: value for key, value in images.items() if value is not None},
    )


def import_network(source: Source, model: Mapping[str, Any]) -> Imported:
    """Build the network of the description `model` (arguments of `build_anynet`) with the source's weights.

    What the description leaves open of classes and image channels is as in the source. Where the source's own
    network is at hand, both are run on the same random images; else what was compared is logged.

    Raises UserError where the weights do not fit, or fit but the networks compute something else.
    """
    try:
        if was_blurred(source.state_dict):
            if model.get("blurpool") is False:
                raise UserError("its network blurs before striding: leave out blurpool: false")
            source = replace(source, state_dict=without_blurpool(source.state_dict))
            model = {**model, "blurpool": True}
        model = {**_shape_of(source.state_dict), **model}
        network = build_anynet(**model).eval()
        network.load_state_dict(convert_state_dict(source.state_dict, network, source.channels))
        other = other_computation(source, network.spec)
        if other:
            raise UserError(f"its weights fit the model, which computes something else: {other}")
    except UserError as error:
        raise UserError(f"{source.name}: {error}") from None
    return Imported(network=network, model=model, difference=_difference(source, network))


def other_computation(source: Source, spec: NetworkSpec) -> str:
    """How a network of the same shapes computes something else than the source's; empty where it does not.

    Where the source does not state what it computes, that is logged.
    """
    if source.description is None:
        if source.network is None:
            logger.warning(
                "%s does not state what its network computes: only names and shapes were compared, not"
                " strides, dilation, anti-aliasing or the epsilon of batch norm",
                source.name,
            )
        return ""
    theirs = network_spec(**source.description)
    if theirs.stem.type != spec.stem.type:
        return f"its stem is {theirs.stem.type}, the model's {spec.stem.type}"
    strides = [[stage.stride for stage in each.stages] for each in (theirs, spec)]
    if strides[0] != strides[1]:
        return f"its strides are {strides[0]}, the model's {strides[1]}"
    return ""


def _shape_of(state_dict: StateDict) -> dict[str, int]:
    """Number of classes, and of the image's channels where it is not 3."""
    names = our_names(state_dict)
    shape = {}
    if "head.fc.weight" in names:
        shape["num_classes"] = len(state_dict[names["head.fc.weight"]])
    if "stem.conv.weight" in names:
        shape["in_channels"] = state_dict[names["stem.conv.weight"]].shape[1]
    return {key: value for key, value in shape.items() if (key, value) != ("in_channels", 3)}


def _difference(source: Source, network: AnyNet) -> float | None:
    if source.network is None:
        return None
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, network.spec.stem.width_in, CHECKED_SIDE, CHECKED_SIDE, generator=generator)
    with torch.no_grad():
        seen = images.flip(1) if source.channels == "bgr" else images
        theirs, ours = source.network.eval()(seen), network(images)
    difference = float((theirs - ours).abs().max())
    if not difference <= 1e-4 * float(theirs.abs().max()):
        raise UserError(
            f"{source.name}: its weights fit the model, but its outputs differ by up to {difference:.3g}: "
            f"it computes something that the model does not"
        )
    return difference


def _from_torchvision(name: str) -> Source:
    from torchvision import models

    architecture, _, tag = name.partition(".")
    _check_network("torchvision", architecture, models.list_models(module=models))
    variants = models.get_model_weights(architecture)
    _check_weights(f"torchvision's {architecture}", tag or "DEFAULT", variants.__members__)
    weights = variants[tag or "DEFAULT"]
    logger.info("torchvision's weights of %s: %s", architecture, weights.name)
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
        crop_ratio=preparation.crop_size[0] / preparation.resize_size[0],
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
    logger.info("timm's weights of %s: %s", architecture, settings["tag"])
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
        crop_ratio=settings["crop_pct"],
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
    """What `load` returns; libraries fail in many ways, each of which is reported as it is."""
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
    regnet = re.fullmatch(r"(regnet[xy])_(\d{3,4})(_tv)?", name)
    if not regnet:
        return _existing(name)
    whole, tenths = divmod(int(regnet[2]), 10)
    size = f"{whole}_{tenths}gf" if whole and tenths else f"{whole}gf" if whole else f"{tenths}00mf"
    return _existing(f"{regnet[1]}_{size}{regnet[3] or ''}")


def _existing(preset: str) -> str | None:
    return preset if preset in preset_names() else None
