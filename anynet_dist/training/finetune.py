"""Starting from trained weights: loading them, and holding parts of the network still."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from anynet_dist.models.convert import rename_state_dict
from anynet_dist.models.pretrained import LIBRARIES, other_computation, read_source
from anynet_dist.models.spec import NetworkSpec
from anynet_dist.runs.network_file import load_network, read_description
from anynet_dist.system.errors import UserError, unknown_name
from anynet_dist.system.plugins import PluginsNotAllowedError

logger = logging.getLogger(__name__)

UNCOUNTED = "num_batches_tracked"
"""What old files lack."""


def load_pretrained(network: nn.Module, source: str) -> None:
    """Load trained weights: of a run, a checkpoint or a model.safetensors of this package, of a file of timm,
    torchvision or pycls, or those that torchvision or timm download (`torchvision:resnet50`).

    A head for another number of classes stays as it is initialised, which is logged. Plug-ins that the
    trained network names are not loaded. Raises UserError when anything does not fit, naming the layer and
    both shapes.
    """
    weights = _trained_weights(source, getattr(network, "spec", None))
    fitting = _without_other_head(network, weights, source)
    for name, tensor in network.state_dict().items():
        if name in fitting and fitting[name].shape != tensor.shape:
            theirs, ours = tuple(fitting[name].shape), tuple(tensor.shape)
            raise UserError(f"model.pretrained: {source} has {name} of shape {theirs}, this network {ours}")
    missing, unexpected = network.load_state_dict(fitting, strict=False)
    missing = [name for name in missing if not name.startswith("head.") and not name.endswith(UNCOUNTED)]
    if missing or unexpected:
        name = (missing or unexpected)[0]
        where = "lacks" if missing else "also has"
        raise UserError(f"model.pretrained: {source} is another network: it {where} {name}")
    logger.info("weights of %s from %s", ", ".join(_parts(fitting)), source)


def _trained_weights(source: str, spec: NetworkSpec | None) -> dict[str, Tensor]:
    if source.partition(":")[0] in LIBRARIES or _is_of_others(Path(source)):
        return _weights_of_others(source, spec)
    try:
        return load_network(source)[0].state_dict()
    except PluginsNotAllowedError as error:
        raise UserError(
            f"model.pretrained: {source} has parts that are not registered, and asks for python code to be"
            f" run: {error.plugins}; read it, then name it under plugins: (or with --plugins)"
        ) from None


def _is_of_others(file: Path) -> bool:
    """Whether it is a file without a description of its network, as other libraries write them."""
    if not file.is_file():
        return False
    try:
        return file.suffix != ".safetensors" or not read_description(file)
    except UserError:
        return True


def _weights_of_others(source: str, spec: NetworkSpec | None) -> dict[str, Tensor]:
    try:
        found = read_source(source)
    except UserError as error:
        raise UserError(f"model.pretrained: {error}") from None
    try:
        weights = rename_state_dict(found.state_dict, found.channels)
    except UserError as error:
        raise UserError(f"model.pretrained: {source}: {error}") from None
    other = spec and other_computation(found, spec)
    if other:
        logger.warning("%s was trained to compute something else: %s", source, other)
    return weights


def _without_other_head(network: nn.Module, weights: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The weights, less those of a head whose shapes are not those of the network's own."""
    ours = network.state_dict()
    head = {name for name in weights if name.startswith("head.")}
    if all(name in ours and ours[name].shape == weights[name].shape for name in head):
        return weights
    logger.info("the head of %s is for other classes: this one starts from its initial weights", source)
    return {name: tensor for name, tensor in weights.items() if name not in head}


def _parts(names: Sequence[str] | dict[str, Tensor]) -> list[str]:
    return list(dict.fromkeys(name.partition(".")[0] for name in names))


def freeze(network: nn.Module, parts: Sequence[str]) -> list[nn.Module]:
    """Stop the gradients of the named parts (stem, stage1, ..., head) and return them.

    The caller keeps them in evaluation mode, so that their batch-norm statistics stay still too.
    """
    known = [name for name, _ in network.named_children()]
    for part in parts:
        if part not in known:
            raise unknown_name("part of the network in model.freeze", part, known)
    frozen = [network.get_submodule(part).requires_grad_(False) for part in parts]
    if parts and not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError("model.freeze holds every part of the network: there is nothing left to train")
    return frozen
