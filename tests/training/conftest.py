"""Runs that are stopped and go on, and what is compared between them."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from anynet_dist.runs.metrics_log import read_records
from anynet_dist.training.trainer import Trainer
from tests.conftest import PATIENCE

TIMES = {"time", "images_per_second", "data_wait", "eta_seconds", "peak_memory_gib", "mfu"}


def signal_in_step(trained: Trainer, step: int, number: int = signal.SIGTERM) -> None:
    """Send this process a signal while it takes a step."""

    def send(*_: object) -> None:
        if trained.progress.step + 1 == step:
            os.kill(os.getpid(), number)

    trained.optimizer.optimizer.register_step_post_hook(send)


def wait_for_step(run: Path, step: int, seconds: float = PATIENCE) -> None:
    """Wait until a run in other processes has logged a step."""
    end = time.monotonic() + seconds
    while not (run / "metrics.jsonl").exists() or read_records(run / "metrics.jsonl")[-1:] == []:
        assert time.monotonic() < end, f"{run} has logged nothing"
        time.sleep(0.05)
    while read_records(run / "metrics.jsonl")[-1]["step"] < step:
        assert time.monotonic() < end, f"{run} has not come to step {step}"
        time.sleep(0.05)


def log_without_times(run: Path) -> list[dict[str, Any]]:
    """All records of a run, without what no two runs have in common."""
    records = read_records(run / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def tensors_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Weights, moving average and optimizer state in a checkpoint, by file and name."""
    tensors: dict[str, torch.Tensor] = {}
    for name in ("model.safetensors", "ema.safetensors"):
        if (checkpoint / name).exists():
            tensors |= {f"{name}:{key}": value for key, value in load_file(checkpoint / name).items()}
    state = torch.load(checkpoint / "optimizer.bin", weights_only=True)["state"]
    for number, entries in state.items():
        tensors |= {f"optimizer:{number}:{key}": torch.as_tensor(value) for key, value in entries.items()}
    return tensors


def assert_same_run(one: Path, other: Path) -> None:
    """Both runs ended with the same network, average, optimizer and log, to the bit."""
    first, second = (tensors_of(run / "checkpoints" / "last") for run in (one, other))
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different
    assert log_without_times(one) == log_without_times(other)
    final = [load_file(run / "model.safetensors") for run in (one, other)]
    assert all(torch.equal(final[0][name], final[1][name]) for name in final[0])


@pytest.fixture
def free_port() -> int:
    """A port for processes that meet without a launcher."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
