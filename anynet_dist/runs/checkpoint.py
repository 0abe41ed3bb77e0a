"""One checkpoint: a folder with a manifest, verified and read once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anynet_dist.config.yaml_reader import read_config
from anynet_dist.runs.manifest import MANIFEST, ManifestError, read_manifest
from anynet_dist.runs.progress import CONFIG, PROGRESS, Progress, RunContext, read_context, read_progress
from anynet_dist.system.errors import UserError


class DamagedError(ValueError):
    """A checkpoint that is incomplete, has changed or cannot be read; the message says which file."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint and what it says beside tensors."""

    path: Path
    progress: Progress
    context: RunContext
    options: dict[str, Any] = field(default_factory=dict)
    """The options of the run that wrote it, by dotted key."""


def open_checkpoint(path: Path) -> Checkpoint:
    """Verify every file of a checkpoint by its manifest, and read it. Raises DamagedError."""
    try:
        manifest = read_manifest(path)
        for name, listed in manifest.items():
            if damage := listed.damage(path / name):
                raise DamagedError(f"{name} {damage}")
        if PROGRESS not in manifest:
            raise DamagedError(f"it has no {PROGRESS}")
        options = {key: setting.value for key, setting in read_config(path / CONFIG, []).items()}
        return Checkpoint(
            path=path, progress=read_progress(path), context=read_context(path), options=options
        )
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedError(f"it has no {MANIFEST}") from None
    except OSError as error:
        raise DamagedError(f"it cannot be read: {error.strerror or error}") from None
    except (UserError, ManifestError) as error:
        raise DamagedError(str(error)) from None


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint; None where nothing is."""
    try:
        open_checkpoint(path)
    except DamagedError as error:
        return str(error)
    return None
