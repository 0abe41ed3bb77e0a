"""Which checkpoint a run resumes from."""

from __future__ import annotations

import logging
from pathlib import Path

from anynet_dist.runs.checkpoint import Checkpoint, DamagedError, find_damage, open_checkpoint
from anynet_dist.runs.checkpoints import Checkpoints
from anynet_dist.runs.folder import RunFolder
from anynet_dist.runs.progress import read_progress
from anynet_dist.system.errors import UserError

logger = logging.getLogger(__name__)


def find_checkpoint(resume: str, checkpoints: Checkpoints, folder: RunFolder) -> Checkpoint | None:
    """The checkpoint that run.resume names: None for `never`, or where `auto` finds a folder without a run.

    To be called on one rank, whose answer counts for all. Raises UserError where a path is no good
    checkpoint, and where a run has left checkpoints, records or weights but no checkpoint to resume from:
    starting from scratch would remove them.
    """
    if resume == "never":
        return None
    if resume == "auto":
        return _find_last(checkpoints, folder)
    path = Path(resume).resolve()
    read_progress(path)
    try:
        return open_checkpoint(path)
    except DamagedError as error:
        raise UserError(f"checkpoint {resume} is damaged: {error}") from None


def _find_last(checkpoints: Checkpoints, folder: RunFolder) -> Checkpoint | None:
    try:
        last, damaged = checkpoints.last()
        reasons = {**damaged, **{path: _stranger(path) for path in checkpoints.strangers()}}
    except OSError as error:
        last, damaged = None, {}
        reasons = {checkpoints.folder: f"it cannot be read: {error.strerror or error}"}
    if last is None and (reasons or folder.holds_a_run()):
        found = "".join(f"\n  {path}: {reason}" for path, reason in reasons.items())
        raise UserError(
            f"{folder.path} holds {', '.join(folder.remains()) or 'a folder checkpoints'}, but no checkpoint"
            f" to resume from:{found or ' there is none'}\nNothing was changed. Bring a checkpoint back, name"
            " one with --run.resume PATH, choose another folder with --run.dir, or remove what the run left"
            " and start from scratch with --run.resume never --run.overwrite true"
        )
    for path, damage in damaged.items():
        logger.warning("checkpoint %s is damaged; it is kept and skipped: %s", path, damage)
    return last


def _stranger(path: Path) -> str:
    if find_damage(path) is None:
        return f"a whole checkpoint under another name (--run.resume {path} resumes from it)"
    return "not named as a checkpoint, step_NUMBER"
