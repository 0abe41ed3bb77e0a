"""The state of a run, for others: status.json, and the mark that it is to be resumed."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from datetime import UTC, datetime
from typing import Any

from anynet_dist.config import Config
from anynet_dist.runs.folder import RunFolder
from anynet_dist.runs.progress import Progress
from anynet_dist.system.files import write_json
from anynet_dist.system.lock import LostLockError
from anynet_dist.system.redaction import redact

logger = logging.getLogger(__name__)

UPDATE_S = 10.0
KEPT_RESTARTS = 100
"""Steps at which a run was resumed that are kept, the newest."""


class RunStatus:
    """Keeps status.json up to date, on rank 0.

    A file that cannot be written, for example because the disk is full, is logged and does not end the run.
    """

    def __init__(
        self, folder: RunFolder, config: Config, total_steps: int, resumed_at: int | None, writes: bool
    ) -> None:
        """`resumed_at` is the step at which a resumed run goes on; None for a new one."""
        self.folder, self.writes = folder, writes
        self.written = 0.0
        self.facts: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "started": _now(),
            **_restarts(folder, resumed_at),
            "total_steps": total_steps,
            "epochs": config.train.epochs,
        }
        if writes:
            folder.resume_me.unlink(missing_ok=True)

    def update(self, progress: Progress) -> None:
        """Write how far the run is, every ten seconds at most."""
        if time.monotonic() - self.written >= UPDATE_S:
            self.set("running", None, progress)

    def set(self, state: str, reason: str | None, progress: Progress) -> None:
        """Write that the run is `running`, `stopped` (to be resumed), `finished`, `pruned` or `failed`,
        and why."""
        if not self.writes:
            return
        self.written = time.monotonic()
        reason = reason and redact(reason)
        position = {"step": progress.step, "epoch": progress.epoch, "reason": reason}
        status = {"state": state, **self.facts, "updated": _now(), **position}
        for tries_left in (1, 0):  # a state that lasts is worth a second try
            try:
                self.folder.check_owner()
                write_json(self.folder.status, status)
                if state == "stopped":
                    ask_for_resume(self.folder, position)
                return
            except LostLockError:  # whose status it is now
                self.writes = False
                return
            except OSError as error:
                if not tries_left:
                    logger.warning("cannot write %s: %s", self.folder.status, error)


def ask_for_resume(folder: RunFolder, facts: dict[str, Any]) -> None:
    """Leave the mark that the run waits to be resumed."""
    if not folder.marker.exists():
        folder.mark(saved=False)
    write_json(folder.resume_me, {**facts, "time": _now()})


def _restarts(folder: RunFolder, resumed_at: int | None) -> dict[str, Any]:
    """How often the run was resumed so far, and the steps at which it last was."""
    if resumed_at is None:
        return {"restarts": 0, "resumed_at": []}
    try:
        before = json.loads(folder.status.read_text(encoding="utf-8"))
        count, steps = int(before["restarts"]), [int(step) for step in before.get("resumed_at", [])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        count, steps = 0, []
    return {"restarts": count + 1, "resumed_at": [*steps, resumed_at][-KEPT_RESTARTS:]}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
