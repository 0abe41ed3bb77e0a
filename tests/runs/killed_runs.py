"""Records of a run that is killed and goes on, and a process that writes the first of them, to be killed.

`python -m tests.runs.killed_runs` reads lines of JSON: for each it forks a process that writes records with a
RunLog, prints its number once all trackers have taken them, and waits to be killed. Forking saves imports.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from accelerate import PartialState

from anynet_dist.config import Config
from anynet_dist.config.schema import RunConfig, TrackingConfig
from anynet_dist.runs.folder import RunFolder
from anynet_dist.runs.metrics_log import RunLog
from anynet_dist.runs.progress import Progress
from anynet_dist.runs.trackers import RunFacts, Trackers
from tests.conftest import PATIENCE, ROOT

FACTS = RunFacts(
    derived={"params": 3979, "widths": [8, 16]},
    network="| part | params |\n| --- | --- |\n| stem | 8 |",
    score="val/ema_top1",
)


def train(step: int, **more: Any) -> dict[str, Any]:
    return {
        **{"step": step, "epoch": 1 + step // 9, "train/loss": 1 / step, "train/top1": step / 20, "lr": 0.1},
        **{"images_per_second": 9.0, "peak_memory_gib": 0.5, "grad_norm": None, "bad_steps": 0, **more},
    }


def evaluated(split: str, step: int, epoch: int, top1: float) -> dict[str, Any]:
    scores = {f"{split}/loss": 1 - top1, f"{split}/top1": top1, f"{split}/ema_top1": top1}
    return {"step": step, "epoch": epoch, **scores, f"{split}/class_top1": [top1, top1]}


KEPT = [*(train(step) for step in range(1, 9)), evaluated("val", 8, 1, 0.5)]
"""Up to the last checkpoint."""
LOST = [train(step) for step in range(9, 14)]
"""From there to the kill."""
AFTER = [
    *(train(step, bad_steps=float(step > 14)) for step in range(9, 17)),
    evaluated("val", 16, 2, 0.4),
    evaluated("test", 16, 1, 0.45),
]
"""From the last checkpoint, after the resume."""


def config_with(tracking: TrackingConfig) -> Config:
    return replace(Config(), run=RunConfig(name="mine"), tracking=tracking)


def log_of(folder: RunFolder, config: Config, resumed: bool) -> RunLog:
    return RunLog(folder, config, Progress(step=8, records=len(KEPT)) if resumed else Progress(), True, FACTS)


def write(log: RunLog, records: Sequence[dict[str, Any]]) -> None:
    for record in records:
        log.write(record)


def taken(log: RunLog) -> Trackers:
    """The trackers, once they have taken all that they were handed."""
    assert log.trackers
    wait_until(lambda: not log.trackers or not log.trackers.tasks.unfinished_tasks)
    return log.trackers


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.02)


class Runs:
    """Runs in processes of their own, to be killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def kill(
        self,
        folder: RunFolder,
        tracking: dict[str, Any],
        records: list[dict[str, Any]],
        when: Callable[[], bool],
        **environment: str,
    ) -> None:
        """Write records in a run that is resumed where the folder has some, and kill it when `when` holds."""
        task = {
            "folder": str(folder.path),
            "tracking": tracking,
            "records": records,
            "environment": environment,
        }
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps({**task, "environment": environment}), file=self.process.stdin, flush=True)
        run = psutil.Process(int(self.process.stdout.readline()))
        wait_until(when)
        for process in (*run.children(recursive=True), run):
            process.kill()
        second = int(time.time())
        wait_until(lambda: int(time.time()) != second)  # by which wandb names the folder of a start


@contextmanager
def runs_to_kill() -> Iterator[Runs]:
    """Start that process; end it."""
    command = [sys.executable, "-m", "tests.runs.killed_runs"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        yield Runs(process)
        assert process.stdin
        process.stdin.close()
        process.wait()


def _run(task: dict[str, Any]) -> None:
    out = os.dup(1)
    os.dup2(2, 1)
    os.environ.update(task["environment"])
    PartialState(cpu=True)
    folder = RunFolder(Path(task["folder"]))
    log = log_of(folder, config_with(TrackingConfig(**task["tracking"])), resumed=folder.metrics.exists())
    write(log, task["records"])
    taken(log)
    os.write(out, f"{os.getpid()}\n".encode())
    signal.pause()


if __name__ == "__main__":
    import wandb  # noqa: F401 - once, for all

    for line in sys.stdin:
        child = os.fork()
        if not child:
            _run(json.loads(line))
        os.waitpid(child, 0)
