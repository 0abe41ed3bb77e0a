"""Trainings by other libraries, as their users would write them, on the same images and network as ours.

Each module has `train(setting, pace)` and is imported in the process that trains, so that a library that is
not installed is missed by nobody else.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec

from anynet_dist.bench.paced import Pace
from anynet_dist.bench.peers.setting import PeerSetting

MODULES = {"timm": "timm_script", "lightning": "lightning_script", "torchvision": "torchvision_script"}
"""The module here for each library."""


def missing(library: str) -> str | None:
    """A sentence that says so where the library is not installed."""
    if find_spec(library) is not None:
        return None
    return f"{library} is left out: it is not installed (pip install {library})"


def ways(library: str, setting: PeerSetting) -> dict[str, PeerSetting]:
    """The ways to train with a library that are measured, by what they are called: as its script does when
    nothing is asked of it, and with what makes it fast."""
    plain = replace(setting, precision="fp32", channels_last=False)
    fast = replace(setting, channels_last=True)
    if library == "timm":
        options = f"timm's train script, {fast.precision}, channels_last"
        return {options: fast, "timm's train script, defaults": replace(plain, library_defaults=True)}
    if library == "lightning":
        found = {"Lightning, the listing as published": plain}
        bf16 = {"Lightning, the same in bf16": replace(plain, precision="bf16")}
        return found | (bf16 if setting.precision == "bf16" else {})
    return {"torchvision's reference script": plain}


def train_peer(library: str, setting: PeerSetting, pace: Pace) -> None:
    """Train with a library until the pace ends it."""
    import_module(f"{__name__}.{MODULES[library]}").train(setting, pace)
