"""A run that goes on with another number of processes."""

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.training.conftest import log_without_times

Launch = Callable[..., CompletedProcess[str]]


@pytest.mark.multiprocess
@pytest.mark.slow
def test_two_processes_then_one_then_two_train_like_two_all_along(
    blobs_config: Path, tmp_path: Path, launch: Launch
) -> None:
    options: tuple[str, ...] = (
        "--train.epochs",
        "5",
        "--checkpoint.every",
        "1 step",
        "--checkpoint.keep_last",
        "100",
    )
    options += ("--data.augment.mixup", "0.2", "--ema.decay", "0.9")
    whole, alone, again = (tmp_path / name for name in ("whole", "alone", "again"))
    launch("train", blobs_config, *options, "--run.dir", whole, processes=2)
    at_4 = ("--resume", whole / "checkpoints" / "step_00000004", "--run.dir", alone)
    result = launch("train", blobs_config, *options, *at_4)
    assert "24 images per step = 12 x 1 device(s) x 2 accumulated" in result.stdout
    assert "changed since then: world_size: 2 -> 1" in result.stdout
    at_11 = ("--resume", alone / "checkpoints" / "step_00000011", "--run.dir", again)
    result = launch("train", blobs_config, *options, *at_11, processes=2)
    assert "24 images per step = 12 x 2 device(s) x 1 accumulated" in result.stdout

    expected = {r["step"]: r for r in log_without_times(whole) if "train/loss" in r}
    for run, first in ((alone, 5), (again, 12)):
        records = [record for record in log_without_times(run) if "train/loss" in record]
        assert [record["step"] for record in records] == list(range(first, 16))
        for record in records:
            assert record["lr"] == expected[record["step"]]["lr"]
            # The same images in the same order, blended alike: other ones would move the loss far more.
            assert record["train/loss"] == pytest.approx(expected[record["step"]]["train/loss"], abs=2e-5)
