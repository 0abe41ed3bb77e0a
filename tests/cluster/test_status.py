import json
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from anynet_dist.cluster.status import RunStatus, find_runs, statuses
from anynet_dist.system.errors import UserError


def make_run(folder: Path, state: str | None, pid: int | None = None, **facts: Any) -> Path:
    """A run folder as a run of this machine leaves it; with `pid`, locked by that process."""
    folder.mkdir(parents=True)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    status = {"state": state, "host": socket.gethostname(), "pid": pid, "slurm_job": None, "started": started}
    status |= {"restarts": 0, "total_steps": 100, "epochs": 10, "step": 20, "epoch": 2, "reason": None}
    if state:
        (folder / "status.json").write_text(json.dumps({**status, **facts}))
    if pid:
        owner = {"host": socket.gethostname(), "pid": pid, "slurm_job": None, "start": "0"}
        (folder / "run.lock").write_text(json.dumps(owner))
    return folder


def status_of(run: Path) -> RunStatus:
    (status,) = statuses([run])
    return status


def test_a_run_that_runs(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "running", os.getpid(), restarts=2)
    records = [
        {"time": time.time(), "step": 10, "val/top1": 0.5},
        {"time": time.time() + 1, "step": 20, "train/top1": 0.9, "eta_seconds": 100.0},
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (run / "metrics.jsonl").write_text(lines + '{"time": 1')  # just being written
    status = status_of(run)
    assert (status.state, status.restarts, status.accuracy, status.accuracy_of) == ("running", 2, 0.5, "val")
    assert (status.epoch, status.epochs, status.step, status.total_steps) == (2, 10, 20, 100)
    assert status.eta_seconds == pytest.approx(101, abs=2)
    assert status.where == f"process {os.getpid()} on {socket.gethostname()}"


def test_a_run_whose_process_is_gone_is_dead(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert status_of(make_run(tmp_path / "gone", "running", process.pid)).state == "dead"
    assert status_of(make_run(tmp_path / "unlocked", "running")).state == "dead"


def test_a_run_on_another_machine_is_dead_after_two_silent_minutes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "running")
    lock = run / "run.lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "slurm_job": None, "start": "0"}))
    assert status_of(run).state == "running"
    os.utime(lock, (time.time() - 130,) * 2)
    assert status_of(run).state == "dead"


@pytest.mark.parametrize("state", ["stopped", "finished", "failed"])
def test_a_run_that_has_ended_says_how(tmp_path: Path, state: str) -> None:
    status = status_of(make_run(tmp_path / "run", state, reason="why"))
    assert (status.state, status.reason, status.eta_seconds) == (state, "why", None)


def test_a_job_that_failed_before_its_run_began(tmp_path: Path) -> None:
    failure = tmp_path / "run" / "slurm" / "7.failure"
    failure.parent.mkdir(parents=True)
    failure.write_text("rank 0 on n1 ended with exit code 2\nx.beton: no such file\n")
    assert find_runs([tmp_path]) == [tmp_path / "run"]
    status = status_of(tmp_path / "run")
    assert (status.state, status.reason) == ("failed", "x.beton: no such file")


def test_runs_are_found_below_a_folder(tmp_path: Path) -> None:
    for name in ("b", "sweep/001", "sweep/002"):
        make_run(tmp_path / name, "finished")
    submitted = tmp_path / "a" / "slurm" / "submitted.json"
    submitted.parent.mkdir(parents=True)
    submitted.write_text('{"job": "1"}')
    names = [str(run.relative_to(tmp_path)) for run in find_runs([tmp_path])]
    assert names == ["a", "b", "sweep/001", "sweep/002"]
    assert find_runs([tmp_path / "b"]) == [tmp_path / "b"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: holds no run"):
        find_runs([tmp_path / "empty"])
    with pytest.raises(UserError, match="no such folder"):
        find_runs([tmp_path / "nowhere"])
