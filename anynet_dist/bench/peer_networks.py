"""The networks of other libraries that are the same as ours, to be held against them."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from anynet_dist.models.pretrained import timm_preset, torchvision_preset


class MissingPeerError(Exception):
    """A library is not installed, or has no such network; one sentence says which."""


def peer_network(library: str, preset: str | None, classes: int) -> nn.Module:
    """The library's own network that our `preset` stands for, with random weights.

    Raises MissingPeerError where there is none.
    """
    if preset is None:
        raise MissingPeerError(f"{library} is left out: it has networks by name, and this one is a config's")
    return PEERS[library](preset, classes)


def _timm(preset: str, classes: int) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise MissingPeerError("timm is left out: it is not installed (pip install timm)") from None
    name = _same("timm", preset, timm.list_models(), timm_preset)
    network: nn.Module = timm.create_model(name, num_classes=classes)
    return network


def _torchvision(preset: str, classes: int) -> nn.Module:
    from torchvision import models

    name = _same("torchvision", preset, models.list_models(module=models), torchvision_preset)
    network: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    return network


def _same(library: str, preset: str, names: list[str], preset_of: Callable[[str], str | None]) -> str:
    """The library's name of our preset."""
    found = [name for name in names if preset_of(name) == preset]
    if not found:
        raise MissingPeerError(f"{library} is left out: it has no {preset}")
    return found[0]


PEERS: dict[str, Callable[[str, int], nn.Module]] = {"timm": _timm, "torchvision": _torchvision}
