"""The manifest of a checkpoint: size and SHA-256 of each of its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from anynet_dist.system.files import sha256_of, write_json

MANIFEST = "manifest.json"


class ManifestError(ValueError):
    """A manifest that cannot be understood."""


class Listed(NamedTuple):
    """What a manifest says of a file."""

    size: int
    sha256: str

    def damage(self, file: Path) -> str | None:
        """What is wrong with the file; None where it is as it was written. Raises OSError."""
        if not file.is_file():
            return "is missing"
        size = file.stat().st_size
        if size != self.size:
            return f"has {size} bytes instead of {self.size}"
        return None if sha256_of(file) == self.sha256 else "has changed since the checkpoint was written"


def write_manifest(folder: Path) -> None:
    """Write size and SHA-256 of each file of the folder."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    facts = {
        str(file.relative_to(folder)): {"size": file.stat().st_size, "sha256": sha256_of(file)}
        for file in files
    }
    write_json(folder / MANIFEST, facts)


def read_manifest(folder: Path) -> dict[str, Listed]:
    """What the manifest of a folder lists, by name.

    Raises OSError where there is none that can be read, and ManifestError where it is damaged.
    """
    content = (folder / MANIFEST).read_bytes()
    try:
        listed = {name: Listed(facts["size"], facts["sha256"]) for name, facts in json.loads(content).items()}
    except (ValueError, KeyError, TypeError, AttributeError):  # ValueError: no JSON, or no text
        raise ManifestError(f"{MANIFEST} is damaged") from None
    if any("\0" in name for name in listed):
        raise ManifestError(f"{MANIFEST} is damaged")
    return listed
