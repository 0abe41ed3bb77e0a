"""Resuming and running out of memory on a GPU. Skipped, saying so, where there is none."""

import signal
from pathlib import Path

import pytest
import torch

from anynet_dist.config import load_config
from anynet_dist.system.errors import RunError, StoppedEarly
from anynet_dist.training.trainer import Trainer
from tests.training.conftest import log_without_times, signal_in_step

pytestmark = [
    pytest.mark.usefixtures("fresh_accelerate"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]


def trainer(config: Path, *overrides: str) -> Trainer:
    return Trainer(load_config(config, overrides).config)


def test_a_run_resumed_on_a_gpu_trains_like_one_never_stopped(blobs_config: Path, tmp_path: Path) -> None:
    options = ("--train.epochs", "6", "--train.deterministic", "true", "--ema.decay", "0.9")
    trainer(blobs_config, *options, "--run.dir", str(tmp_path / "whole")).fit()
    stopped = trainer(blobs_config, *options)
    signal_in_step(stopped, 4, signal.SIGTERM)
    with pytest.raises(StoppedEarly):
        stopped.fit()
    trainer(blobs_config, *options, "--resume", "auto").fit()
    for one, other in zip(*(log_without_times(tmp_path / run) for run in ("whole", "run")), strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_too_large_a_batch_is_told_with_what_to_lower(blobs_config: Path) -> None:
    too_large = ("--model.num_channels", "8", "8192", "8192", "--data.val_fraction", "0")
    run = trainer(blobs_config, *too_large)
    torch.cuda.set_per_process_memory_fraction(0.001)
    try:
        with pytest.raises(RunError, match=r"out of memory on cuda.*--train\.max_device_batch 12"):
            run.fit()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
