"""Where runs stand, read from their folders and from SLURM's queue."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from anynet_dist.cluster.queue import job_states
from anynet_dist.cluster.submission import SUBMITTED
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import read_regular_file
from anynet_dist.system.lock import is_held
from anynet_dist.training.run_folder import RunFolder

SCORES = ("test/ema_top1", "test/top1", "val/ema_top1", "val/top1")
QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING")


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One row of `anynet status`."""

    run: str
    state: str
    """`queued`, `running`, `stopped` (waits to be resumed), `finished`, `failed`, `dead` (it says that it
    runs, but does not), or `unknown`."""
    reason: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    step: int | None = None
    total_steps: int | None = None
    accuracy: float | None = None
    """The newest top-1, as a share of 1."""
    accuracy_of: str | None = None
    """The split, and `ema` for the moving average."""
    eta_seconds: float | None = None
    """Of training, for a run that runs."""
    restarts: int = 0
    where: str = ""
    """Job, or process and host."""


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The run folders among `paths` and below them. Raises UserError where a path holds none."""
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: there is no such folder")
        runs = list(_below(path, depth=3))
        if not runs:
            raise UserError(f"{path}: holds no run")
        found.update(dict.fromkeys(runs))
    return list(found)


def _below(path: Path, depth: int) -> Iterator[Path]:
    if RunFolder(path).status.exists() or RunFolder(path).holds_a_run() or _failure(path):
        yield path
        return
    inner = [run for entry in _folders(path) if depth for run in _below(entry, depth - 1)]
    if not inner and _submitted(path):
        yield path
    yield from inner


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink())
    except PermissionError:
        return []


def statuses(runs: Iterable[Path]) -> list[RunStatus]:
    """How each run stands. SLURM is asked once for all."""
    folders = [RunFolder(run) for run in runs]
    told = [_read(folder.status) for folder in folders]
    jobs = [_job(folder, facts) for folder, facts in zip(folders, told, strict=True)]
    queue = job_states(job for job in jobs if job)
    return [
        _status(folder, facts, job, queue) for folder, facts, job in zip(folders, told, jobs, strict=True)
    ]


def _submitted(path: Path) -> str | None:
    return _read(path / "slurm" / SUBMITTED).get("job")


def _failure(path: Path) -> str | None:
    """The last line of what the newest job of this run says of its first failure."""
    files = sorted(path.glob("slurm/*.failure"), key=lambda file: file.stat().st_mtime)
    lines = files[-1].read_text(encoding="utf-8", errors="replace").splitlines() if files else []
    return lines[-1] if lines else None


def _job(folder: RunFolder, facts: dict[str, Any]) -> str | None:
    """The job that the run belongs to: the one submitted last, unless a run outside SLURM came after it."""
    submitted = _read(folder.path / "slurm" / SUBMITTED)
    if facts and _seconds(facts.get("started")) >= _seconds(submitted.get("time")):
        return facts.get("slurm_job")
    return submitted.get("job")


def _status(
    folder: RunFolder, facts: dict[str, Any], job: str | None, queue: dict[str, str] | None
) -> RunStatus:
    state = _state(folder, facts, job, queue)
    score, split = _newest_score(folder)
    where = f"job {job}" if job else ""
    if facts and not job:
        where = f"process {facts.get('pid')} on {facts.get('host')}"
    return RunStatus(
        run=str(folder.path),
        state=state,
        reason=facts.get("reason") or (_failure(folder.path) if state in ("failed", "dead") else None),
        epoch=facts.get("epoch"),
        epochs=facts.get("epochs"),
        step=facts.get("step"),
        total_steps=facts.get("total_steps"),
        accuracy=score,
        accuracy_of=split,
        eta_seconds=_eta(folder, facts) if state == "running" else None,
        restarts=int(facts.get("restarts") or 0),
        where=where,
    )


def _state(folder: RunFolder, facts: dict[str, Any], job: str | None, queue: dict[str, str] | None) -> str:
    """What the run says of itself, unless the queue or the lock knows better."""
    said = str(facts.get("state", "unknown"))
    in_queue = queue.get(job) if queue and job else None
    if in_queue in QUEUED:
        return "queued"
    lives = is_held(folder.lock)
    if said == "running":
        return "running" if lives and (in_queue or queue is None or not job) else "dead"
    if in_queue and not lives and (not facts or facts.get("slurm_job") != job):
        return "starting"  # the job runs, its trainer does not yet
    if not facts and _failure(folder.path):
        return "failed"
    if not facts:
        return "dead" if job and queue is not None else "unknown"
    return said


def _newest_score(folder: RunFolder) -> tuple[float | None, str | None]:
    for record in reversed(_records(folder)):
        for key in SCORES:
            if key in record:
                split, _, kind = key.partition("/")
                return record[key], f"{split} ema" if kind.startswith("ema") else split
    return None, None


def _eta(folder: RunFolder, facts: dict[str, Any]) -> float | None:
    """What the last training record foresaw, less the time since then."""
    started = _seconds(facts.get("started"))
    for record in reversed(_records(folder)):
        if "eta_seconds" in record and record["time"] >= started:
            return max(0.0, record["eta_seconds"] - (time.time() - record["time"]))
    return None


def _records(folder: RunFolder) -> list[dict[str, Any]]:
    """The log, but for a last line that is just being written."""
    records = []
    try:
        lines = read_regular_file(folder.metrics).decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def _read(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(read_regular_file(path))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _seconds(moment: object) -> float:
    """ISO 8601 as seconds since 1970; 0 for what is none."""
    try:
        return datetime.fromisoformat(str(moment)).timestamp()
    except ValueError:
        return 0.0
