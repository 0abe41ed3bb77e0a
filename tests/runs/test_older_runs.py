"""Run folders and checkpoints that earlier versions wrote still load and resume."""

import shutil
from pathlib import Path

import pytest
import torch

from anynet_dist import load_model
from anynet_dist.runs.checkpoint import find_damage
from anynet_dist.runs.metrics_log import read_records
from tests.conftest import Launch

OLD = Path(__file__).resolve().parents[1] / "fixtures" / "run_of_0_1"
"""Two processes trained the blobs of tests/conftest.py for 4 of 6 steps, with a moving average."""
LOSSES_OF_0_1 = [1.0159379641215007, 1.0379023949305217]
"""What that version logged for the steps that were left."""


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    """A copy, which a test may change."""
    return Path(shutil.copytree(OLD, tmp_path / "run", symlinks=True))


@pytest.mark.parametrize("path", [".", "model.safetensors", "checkpoints/step_00000004", "checkpoints/last"])
def test_networks_load(old_run: Path, path: str) -> None:
    network = load_model(old_run / path)
    assert network.classes == ("class0", "class1", "class2")
    assert network(torch.zeros(1, 3, 16, 16)).shape == (1, 3)


def test_checkpoints_are_whole(old_run: Path) -> None:
    assert find_damage(old_run / "checkpoints" / "last") is None


@pytest.mark.multiprocess
@pytest.mark.slow
def test_runs_are_evaluated_and_resumed(
    old_run: Path, blobs: Path, blobs_config: Path, launch: Launch
) -> None:
    data = ("--data.train", blobs / "train", "--data.test", blobs / "val")
    assert "100.00%" in launch("eval", old_run, *data).stdout
    options = ("--ema.decay", "0.9", "--checkpoint.every", "2 steps", "--checkpoint.keep_last", "1")
    launch("train", blobs_config, *options, "--run.dir", old_run, "--run.resume", "auto", processes=2)
    records = [record for record in read_records(old_run / "metrics.jsonl") if "train/loss" in record]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert [record["train/loss"] for record in records[4:]] == pytest.approx(LOSSES_OF_0_1, rel=1e-4)
