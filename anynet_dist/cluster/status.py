"""Where runs stand, read from their folders and from SLURM's queue."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from anynet_dist.cluster.queue import job_states
from anynet_dist.cluster.run_files import RunFiles, Said, failure_files, names_in
from anynet_dist.cluster.submission import SUBMITTED
from anynet_dist.runs.folder import RunFolder
from anynet_dist.system.errors import UserError
from anynet_dist.system.lock import is_held

QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING")


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One row of `anynet status`."""

    run: str
    state: str
    """`queued`, `running`, `stopped` (waits to be resumed), `finished`, `failed`, `dead` (it reports that it
    runs, but does not), `damaged` (its status.json cannot be read), or `unknown`."""
    reason: str | None = None
    """Why it is in this state, and which of its files are damaged."""
    epoch: int | None = None
    epochs: int | None = None
    step: int | None = None
    total_steps: int | None = None
    accuracy: float | None = None
    """The newest top-1, as a fraction."""
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
    if _holds_a_run(path):
        yield path
        return
    inner = [run for entry in _folders(path) if depth for run in _below(entry, depth - 1)]
    if not inner and os.path.lexists(path / "slurm" / SUBMITTED):
        yield path
    yield from inner


def _holds_a_run(path: Path) -> bool:
    """Whether a run has left something here, be it damaged."""
    folder = RunFolder(path)
    names = set(names_in(path))
    return (
        not names.isdisjoint(file.name for file in (folder.status, folder.metrics, folder.weights))
        or any(name.startswith("step_") for name in names_in(folder.checkpoints))
        or bool(failure_files(path))
    )


def _folders(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            return sorted(Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def statuses(runs: Iterable[Path]) -> list[RunStatus]:
    """How each run stands. SLURM is asked once for all. What is damaged in a run is reported in its row."""
    found = [RunFiles(run) for run in runs]
    jobs = [_job(files) for files in found]
    queue = job_states(job for job in jobs if job)
    return [_status(files, job, queue) for files, job in zip(found, jobs, strict=True)]


def _job(files: RunFiles) -> str | None:
    """The job that the run belongs to: the one submitted last, unless a run outside SLURM came after it."""
    said, submitted = files.said, files.submitted
    if submitted is None:
        return said.slurm_job if said else None
    if said and said.started and (submitted.time is None or said.started >= submitted.time):
        return said.slurm_job
    return submitted.job


def _status(files: RunFiles, job: str | None, queue: dict[str, str] | None) -> RunStatus:
    said = files.said or Said()
    state = _state(files, job, queue)
    score, split = _newest_score(files)
    eta = _eta(files) if state == "running" else None
    reason = said.reason or (files.failure() if state in ("failed", "dead") else None)
    return RunStatus(
        run=str(files.folder.path),
        state=state,
        reason="; ".join([*([reason] if reason else []), *files.complaints()]) or None,
        epoch=said.epoch,
        epochs=said.epochs,
        step=said.step,
        total_steps=said.total_steps,
        accuracy=score,
        accuracy_of=split,
        eta_seconds=eta,
        restarts=said.restarts or 0,
        where=_where(said, job),
    )


def _where(said: Said, job: str | None) -> str:
    if job:
        return f"job {job}"
    process = f"process {said.pid}" if said.pid is not None else ""
    return " on ".join(part for part in (process, said.host) if part)


def _state(files: RunFiles, job: str | None, queue: dict[str, str] | None) -> str:
    """What the run reports about itself, unless the queue or the lock knows better."""
    said = files.said
    in_queue = queue.get(job) if queue and job else None
    if in_queue in QUEUED:
        return "queued"
    lives = is_held(files.folder.lock)
    if said and said.state == "running":
        return "running" if lives and (in_queue or queue is None or not job) else "dead"
    if in_queue and not lives and (said is None or said.slurm_job != job):
        return "starting"  # the job runs, its trainer does not yet
    if files.state_is_lost:
        return "running" if lives else "damaged"
    if said is None and failure_files(files.folder.path):
        return "failed"
    if said is None:
        return "dead" if job and queue is not None else "unknown"
    return said.state or "unknown"


def _newest_score(files: RunFiles) -> tuple[float | None, str | None]:
    scores = (record.score for record in files.records())
    return next((score for score in scores if score), (None, None))


def _eta(files: RunFiles) -> float | None:
    """What the last training record foresaw, less the time since then."""
    started = files.said.started.timestamp() if files.said and files.said.started else 0.0
    for record in files.records():
        if record.eta_seconds is not None and record.time is not None and record.time >= started:
            return max(0.0, record.eta_seconds - (time.time() - record.time))
    return None
