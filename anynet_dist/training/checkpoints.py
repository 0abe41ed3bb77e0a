"""Checkpoints: whole folders with checksums, written under a temporary name and renamed when complete."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from anynet_dist.config.schema import CheckpointConfig
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import flush, sha256_of, write_json
from anynet_dist.training.progress import PROGRESS, read_progress

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"


class _Entry(NamedTuple):
    step: int
    path: Path
    score: float | None


class Checkpoints:
    """The checkpoint folders of a run, and the links `last` and `best` among them for people to use."""

    def __init__(self, folder: Path, config: CheckpointConfig) -> None:
        self.folder = folder
        self.config = config

    def last(self) -> Path | None:
        """The newest good checkpoint. Those that are damaged are named in the log and passed over."""
        return next((path for _, path, _ in reversed(self._entries()) if _is_good(path)), None)

    def best(self) -> Path | None:
        """The good checkpoint with the best validation accuracy, the earliest where several have it."""
        return next((path for _, path, _ in self._ranked() if _is_good(path)), None)

    def _entries(self) -> list[_Entry]:
        """All checkpoints, oldest first."""
        entries = []
        for path in self.folder.glob("step_*"):
            try:
                entries.append(_Entry(int(path.name.removeprefix("step_")), path, read_progress(path).score))
            except (UserError, ValueError, TypeError) as error:
                logger.warning("checkpoint %s is damaged and passed over: %s", path, error)
        return sorted(entries)

    def _ranked(self) -> list[_Entry]:
        """Those that were evaluated, best first."""
        scored = [entry for entry in self._entries() if entry.score is not None]
        return sorted(scored, key=lambda entry: (-(entry.score or 0.0), entry.step))

    def begin(self, step: int) -> Path:
        """Make the temporary folder of a new checkpoint, and remove those that were abandoned."""
        self.abandon()
        partial = self.partial(step)
        partial.mkdir(parents=True)
        return partial

    def abandon(self) -> None:
        """Remove what is left of checkpoints that were not completed."""
        for partial in self.folder.glob(".step_*.partial"):
            shutil.rmtree(partial)

    def partial(self, step: int) -> Path:
        """The temporary folder of a new checkpoint."""
        return self.folder / f".step_{step:08d}.partial"

    def publish(self, partial: Path) -> Path:
        """Complete a checkpoint: checksums, to the disk, its own name, the links; then prune the old ones."""
        write_manifest(partial)
        for file in (*partial.rglob("*"), partial):
            flush(file)
        target = self.folder / partial.name.removeprefix(".").removesuffix(".partial")
        if target.exists():  # a damaged one, or one of the same step from before an earlier checkpoint
            aside = target.with_name(f".{target.name}.old.partial")
            target.rename(aside)
            partial.rename(target)
            shutil.rmtree(aside)
        else:
            partial.rename(target)
        flush(self.folder)
        self._link("last", target)
        ranked = self._ranked()
        if ranked:
            self._link("best", ranked[0].path)
        self._prune()
        return target

    def _link(self, name: str, target: Path) -> None:
        temporary = self.folder / f".{name}.partial"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target.name)
        os.replace(temporary, self.folder / name)

    def _prune(self) -> None:
        """Remove the checkpoints that no rule keeps."""
        config, entries = self.config, self._entries()
        kept = {entry.path for entry in entries[-config.keep_last :]}
        kept |= {entry.path for entry in self._ranked()[: config.keep_best]}
        if config.keep_every:
            kept |= {entry.path for entry in entries if entry.step % config.keep_every == 0}
        for entry in entries:
            if entry.path not in kept:
                shutil.rmtree(entry.path)

    def set_aside_after(self, step: int) -> None:
        """Rename the checkpoints beyond `step`, damaged ones too, where a run goes on from an earlier one."""
        for path in self.folder.glob("step_*"):
            if int(path.name.removeprefix("step_")) > step:
                aside = path.with_name(f"replaced_{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
                logger.warning("the run goes on from step %d: %s is now %s", step, path.name, aside)


def write_manifest(folder: Path) -> None:
    """Write size and SHA-256 of each file of the folder."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    facts = {
        str(file.relative_to(folder)): {"size": file.stat().st_size, "sha256": sha256_of(file)}
        for file in files
    }
    write_json(folder / MANIFEST, facts)


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, by its manifest; None where all is well."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for name, facts in manifest.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != facts["size"]:
                return f"{name} has {file.stat().st_size} bytes instead of {facts['size']}"
            if sha256_of(file) != facts["sha256"]:
                return f"{name} has changed since it was written"
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    return None if PROGRESS in manifest else f"it has no {PROGRESS}"


def _is_good(path: Path) -> bool:
    damage = find_damage(path)
    if damage:
        logger.warning("checkpoint %s is damaged and passed over: %s", path, damage)
    return damage is None


def find_checkpoint(resume: str, checkpoints: Checkpoints) -> Path | None:
    """The checkpoint that run.resume names: None for `never`, or where `auto` finds none yet.

    Raises UserError where a path is no good checkpoint.
    """
    if resume == "never":
        return None
    if resume == "auto":
        return checkpoints.last()
    path = Path(resume).resolve()
    read_progress(path)
    damage = find_damage(path)
    if damage:
        raise UserError(f"checkpoint {resume} is damaged: {damage}")
    return path
