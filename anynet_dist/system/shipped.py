"""The files that come along with the package: configs/, launch/ and slurm/."""

from __future__ import annotations

from pathlib import Path

from anynet_dist.system.errors import UserError, nearest_name

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = _PACKAGE / "_shipped"
CONFIG_PREFIX = "anynet:"
"""Before the name of a shipped config where a file of one's own has it too: anynet:imagenet/base.yaml."""


def shipped(name: str) -> Path:
    """A shipped folder or file, such as slurm or launch/two_processes.yaml: inside of the installed package,
    or beside it in a checkout.

    Raises UserError where it is not there.
    """
    path = (_INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent) / name
    if not path.exists():
        raise UserError(f"{path} is missing: anynet_dist is not installed as a whole; install it again")
    return path


def shipped_configs() -> dict[str, Path]:
    """The shipped configs by name, such as imagenet/base.yaml."""
    folder = shipped("configs")
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def shipped_config(name: str) -> Path:
    """The shipped config of this name, with or without `anynet:`. Raises UserError with the nearest name."""
    name, known = name.removeprefix(CONFIG_PREFIX), shipped_configs()
    if name not in known:
        nearest = nearest_name(name, known)
        hint = f"; did you mean '{nearest}'?" if nearest else ""
        raise UserError(f"no config of this name is shipped{hint} (there are {', '.join(known)})")
    return known[name]
