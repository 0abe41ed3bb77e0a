"""Checkpoints: whole folders with checksums, written under a temporary name and renamed when complete."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

from anynet_dist.config.schema import CheckpointConfig
from anynet_dist.runs.checkpoint import Checkpoint, DamagedError, find_damage, open_checkpoint
from anynet_dist.runs.manifest import write_manifest
from anynet_dist.runs.progress import read_progress
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import flush

logger = logging.getLogger(__name__)

LINKS = ("last", "best")
STEP = re.compile(r"step_(\d+)$")
PARTIAL = re.compile(r"\.(step_\d+|last|best)(\.\w+)?\.(partial|replaced)$")
REPLACED = ".replaced"


class _Entry(NamedTuple):
    step: int
    path: Path
    score: float | None


class Checkpoints:
    """The checkpoint folders of a run, and the links `last` and `best` among them for people to use.

    Nothing but whole checkpoints that no rule keeps is ever removed: damaged ones, and whatever else lies
    in the folder, stay.
    """

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig,
        owner: str = "owner",
        check_owner: Callable[[], None] = lambda: None,
    ) -> None:
        """`owner` marks temporary folders as this run's start's, the same on all ranks; `check_owner` raises
        LostLockError where another process has taken the run over: nothing of it is touched then."""
        self.folder, self.config = folder, config
        self.owner, self.check_owner = owner, check_owner
        self.has_links = True

    def last(self) -> tuple[Checkpoint | None, dict[Path, str]]:
        """The newest good checkpoint, and the newer ones that are damaged, each with what is wrong with it.

        Raises OSError where the folder cannot be read.
        """
        damaged: dict[Path, str] = {}
        for _, path in reversed(self._folders()):
            try:
                return open_checkpoint(path), damaged
            except DamagedError as error:
                damaged[path] = str(error)
        return None, damaged

    def best(self) -> Checkpoint | None:
        """The good checkpoint with the best validation score, the earliest where several have it."""
        for entry in _ranked(self._entries()):
            try:
                return open_checkpoint(entry.path)
            except DamagedError as error:
                logger.warning("checkpoint %s is damaged and skipped: %s", entry.path, error)
        return None

    def strangers(self) -> list[Path]:
        """What lies in the folder and is neither a checkpoint, by its name, nor one of our links."""
        return [path for path in _listed(self.folder) if not (STEP.match(path.name) or _is_ours(path))]

    def _folders(self) -> list[tuple[int, Path]]:
        """All that bears the name of a checkpoint, oldest first, with its step."""
        names = ((STEP.match(path.name), path) for path in _listed(self.folder))
        return sorted((int(match[1]), path) for match, path in names if match)

    def _entries(self) -> list[_Entry]:
        """All checkpoints, oldest first. Damaged ones are skipped with a warning."""
        entries = []
        for step, path in self._folders():
            try:
                entries.append(_Entry(step, path, read_progress(path).score))
            except UserError as error:
                logger.warning("checkpoint %s is damaged and skipped: %s", path, error)
        return entries

    def recover(self) -> None:
        """At a start: bring back a checkpoint whose replacement was interrupted, and remove what is left of
        those that were not completed, or of old ones whose removal was interrupted."""
        self.abandon()
        for old in self.folder.glob(f".step_*{REPLACED}"):
            target = self.folder / old.name.removeprefix(".").removesuffix(REPLACED)
            if target.exists():
                shutil.rmtree(old)
            else:
                old.rename(target)

    def begin(self, step: int) -> Path:
        """Make the temporary folder of a new checkpoint, and remove those that were abandoned."""
        self.abandon()
        partial = self.partial(step)
        partial.mkdir(parents=True)
        return partial

    def abandon(self) -> None:
        """Remove what is left of checkpoints that were not completed."""
        self.check_owner()
        for partial in self.folder.glob(".step_*.partial"):
            shutil.rmtree(partial)

    def partial(self, step: int) -> Path:
        """The temporary folder of a new checkpoint."""
        return self.folder / f".step_{step:08d}.{self.owner}.partial"

    def publish(self, partial: Path) -> Path:
        """Complete a checkpoint: checksums, to the disk, its own name; then prune the old ones and link."""
        write_manifest(partial)
        for file in (*partial.rglob("*"), partial):
            flush(file)
        target = self.folder / partial.name.split(".")[1]
        self.check_owner()
        if target.exists():
            self._replace(target, partial)
        else:
            partial.rename(target)
        flush(self.folder)
        self._prune()
        self.refresh_links()
        return target

    def _replace(self, target: Path, partial: Path) -> None:
        """Put a checkpoint in the place of one of the same step; a damaged one is kept under another name."""
        if find_damage(target) is not None:
            _set_aside(target)
            partial.rename(target)
            return
        old = target.with_name(f".{target.name}{REPLACED}")
        target.rename(old)
        partial.rename(target)
        shutil.rmtree(old)

    def refresh_links(self) -> None:
        """Let `last` and `best` point to those checkpoints, as far as the file system allows."""
        ranked = _ranked(self._entries())
        newest = [path for _, path in self._folders()][-1:]
        for name, targets in (("last", newest), ("best", [entry.path for entry in ranked])):
            try:
                self._link(name, targets[0] if targets else None)
            except OSError as error:
                if self.has_links:
                    logger.warning("cannot link %s: %s; checkpoints are complete without", name, error)
                self.has_links = False

    def _link(self, name: str, target: Path | None) -> None:
        link = self.folder / name
        if link.exists() and not link.is_symlink():  # made by a copy that follows links
            _set_aside(link)
        if target is None:
            link.unlink(missing_ok=True)
        elif not link.is_symlink() or link.readlink() != Path(target.name):
            temporary = self.folder / f".{name}.partial"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target.name)
            os.replace(temporary, link)

    def _prune(self) -> None:
        """Remove the checkpoints that no rule keeps. One that cannot be removed is no reason to stop."""
        config, entries = self.config, self._entries()
        kept = {entry.path for entry in entries[-config.keep_last :]}
        kept |= {entry.path for entry in _ranked(entries)[: config.keep_best]}
        if config.keep_every:
            kept |= {entry.path for entry in entries if entry.step % config.keep_every == 0}
        for entry in entries:
            if entry.path not in kept:
                try:
                    _remove_whole(entry.path)
                except OSError as error:
                    logger.warning("cannot remove the old checkpoint %s: %s", entry.path, error)

    def set_aside_after(self, step: int) -> None:
        """Rename the checkpoints beyond `step`, damaged ones too, where a run resumes from an earlier one."""
        for number, path in self._folders():
            if number > step:
                logger.warning("the run resumes from step %d: %s is now %s", step, path, _set_aside(path))

    def clear(self) -> None:
        """Remove all checkpoints and links, for a run that starts from scratch; everything else stays."""
        for path in _listed(self.folder):
            if path.is_symlink():
                if _is_ours(path):
                    path.unlink()
            elif STEP.match(path.name.removeprefix("replaced_")) or PARTIAL.match(path.name):
                shutil.rmtree(path)
        if self.folder.is_dir() and not _listed(self.folder):
            self.folder.rmdir()


def _ranked(entries: list[_Entry]) -> list[_Entry]:
    """Those that were evaluated, best first."""
    scored = [entry for entry in entries if entry.score is not None]
    return sorted(scored, key=lambda entry: (-(entry.score or 0.0), entry.step))


def _listed(folder: Path) -> list[Path]:
    """What lies in a folder, by name; nothing where there is none. Raises OSError where it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _is_ours(path: Path) -> bool:
    """Whether a name is one that we give to what is no checkpoint."""
    return path.name in LINKS or bool(PARTIAL.match(path.name))


def _set_aside(path: Path) -> Path:
    """Rename to a name under which nothing lies; returns it."""
    names = chain((f"replaced_{path.name}",), (f"replaced_{path.name}.{n}" for n in count(2)))
    aside = next(target for name in names if not os.path.lexists(target := path.with_name(name)))
    path.rename(aside)
    return aside


def _remove_whole(path: Path) -> None:
    """Remove a checkpoint such that a half removed one never bears its name."""
    doomed = path.with_name(f".{path.name}.partial")
    path.rename(doomed)
    shutil.rmtree(doomed)
