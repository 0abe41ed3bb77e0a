"""Real runs of two processes (DDP over gloo) against runs of one."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from anynet_dist import load_model
from anynet_dist.runs.metrics_log import read_records

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]

Launch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def trained_by_two(blobs_config: Path, tmp_path: Path, launch: Launch) -> Path:
    run = tmp_path / "two"
    result = launch(
        "train", blobs_config, "--run.dir", run, "--ema.decay", "0.9", "--train.epochs", "3", processes=2
    )
    assert "world size 2 (cpu, gloo)" in result.stdout
    assert result.stdout.count("anynet 0.") == 1, "only rank 0 speaks"
    return run


def test_two_processes_compute_what_one_does_on_the_same_global_batch(
    blobs_config: Path, tmp_path: Path, launch: Launch
) -> None:
    options = ("--train.max_steps", "3", "--eval.precise_bn", "24")
    launch("train", blobs_config, *options, "--run.dir", tmp_path / "two", processes=2)
    # Batch norm works on one device's batch: one process sees the same batches when it accumulates two.
    accumulated = ("--train.max_device_batch", "12")
    launch("train", blobs_config, *options, *accumulated, "--run.dir", tmp_path / "one")
    one, two = (load_model(tmp_path / run).state_dict() for run in ("one", "two"))
    for name in (name for name in one if "num_batches" not in name):
        assert torch.allclose(one[name].float(), two[name].float(), atol=2e-6), name
    logs = [read_records(tmp_path / run / "metrics.jsonl") for run in ("one", "two")]
    for from_one, from_two in zip(*logs, strict=True):
        for key in from_one.keys() & {"train/loss", "train/top1", "val/loss", "test/loss", "lr"}:
            assert from_one[key] == pytest.approx(from_two[key], abs=1e-5), key


def test_the_last_smaller_batch_counts_alike_on_any_number_of_processes(
    blobs_config: Path, tmp_path: Path, launch: Launch
) -> None:
    """71 images in global batches of 20: the last has 11, of which the two parts take 6 and 5."""
    options = ("--data.val_fraction", "0.26", "--data.drop_last", "false", "--train.global_batch", "20")
    launch("train", blobs_config, *options, "--run.dir", tmp_path / "two", processes=2)
    accumulated = ("--train.max_device_batch", "10")
    launch("train", blobs_config, *options, *accumulated, "--run.dir", tmp_path / "one")
    one, two = (load_model(tmp_path / run / "checkpoints" / "last").state_dict() for run in ("one", "two"))
    for name in (name for name, value in one.items() if "running" not in name and "num_batches" not in name):
        assert torch.allclose(one[name], two[name], atol=2e-6), name
    logs = [read_records(tmp_path / run / "metrics.jsonl") for run in ("one", "two")]
    losses = [[r["train/loss"] for r in log if "train/loss" in r] for log in logs]
    assert len(losses[0]) == 8, "four steps an epoch"
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_last_batch_too_small_to_share_is_refused(blobs_config: Path, launch: Launch) -> None:
    options = ("--data.drop_last", "false", "--train.global_batch", "71")
    result = launch("train", blobs_config, *options, "--train.max_device_batch", "1", check=False)
    assert result.returncode == 2
    assert "the last global batch of an epoch has 1 samples, fewer than the 1 processes x 71" in result.stderr


def test_a_checkpoint_of_two_processes_goes_on_and_is_evaluated_in_one(
    trained_by_two: Path, blobs_config: Path, launch: Launch
) -> None:
    reported = read_records(trained_by_two / "metrics.jsonl")[-1]
    for processes in (1, 2):
        scores = json.loads(launch("eval", trained_by_two, "--json", processes=processes).stdout)
        assert scores["count"] == 37
        assert scores["top1"] == reported["test/ema_top1"]
        assert scores["loss"] == pytest.approx(reported["test/ema_loss"], rel=1e-5)
    options = ("--run.dir", trained_by_two, "--ema.decay", "0.9", "--train.epochs", "4", "--resume", "auto")
    resumed = launch("train", blobs_config, *options, "--train.max_device_batch", "12")
    assert "24 images per step = 12 x 1 device(s) x 2 accumulated" in resumed.stdout
    assert "epoch 3, step 9" in resumed.stdout
    steps = [r["step"] for r in read_records(trained_by_two / "metrics.jsonl") if "train/loss" in r]
    assert steps == list(range(1, 13))


def test_an_error_is_told_once_and_ends_all_processes(blobs_config: Path, launch: Launch) -> None:
    result = launch("train", blobs_config, "--train.global_batch", "25", processes=2, check=False)
    assert result.returncode != 0
    assert result.stderr.count("anynet: error: train.global_batch: 25 images cannot be divided evenly") == 1
    assert "File " not in result.stderr.split("anynet: error")[1].splitlines()[0]


def test_a_compiled_network_trains_in_two_processes_and_is_saved_under_its_own_names(
    blobs_config: Path, tmp_path: Path, launch: Launch
) -> None:
    options = ("--train.compile", "true", "--train.epochs", "1", "--ema.decay", "0.9")
    launch("train", blobs_config, *options, processes=2)
    raw, average = (load_model(tmp_path / "run" / "checkpoints" / "last", name) for name in ("raw", "ema"))
    assert raw.state_dict().keys() == average.state_dict().keys()
    assert not torch.equal(raw.get_parameter("head.fc.weight"), average.get_parameter("head.fc.weight"))


def test_gradients_sent_in_16_bits_or_in_a_fixed_order_train_alike(
    blobs_config: Path, tmp_path: Path, launch: Launch
) -> None:
    ways = {
        "usual": (),
        "fixed": ("--speed.static_graph", "true", "--speed.gradient_bucket_view", "false"),
        "bf16": ("--speed.gradient_dtype", "bf16"),
    }
    for name, options in ways.items():
        launch(
            *("train", blobs_config, "--train.max_steps", "3", "--run.dir", tmp_path / name, *options),
            processes=2,
        )
    usual, fixed, short = (load_model(tmp_path / name).state_dict() for name in ways)
    for name in (name for name, value in usual.items() if value.is_floating_point()):
        assert torch.equal(usual[name], fixed[name]), name
        assert torch.allclose(usual[name], short[name], rtol=0.05, atol=0.01), name
    assert not torch.equal(usual["head.fc.weight"], short["head.fc.weight"])


def test_a_fixed_order_is_refused_where_gradients_are_accumulated(blobs_config: Path, launch: Launch) -> None:
    options = ("--speed.static_graph", "true", "--train.max_device_batch", "12")
    result = launch("train", blobs_config, *options, check=False)
    assert result.returncode == 2
    assert "speed.static_graph: does not go with gradients that are accumulated over 2" in result.stderr
