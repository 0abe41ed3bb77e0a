"""Which checkpoint a run resumes from, where several processes must use the same one."""

import os
from pathlib import Path

import pytest

from anynet_dist.runs.metrics_log import read_records
from tests.conftest import Launch

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]

SAVE_ALL = ("--checkpoint.every", "1 step", "--checkpoint.keep_last", "100")


def damage(run: Path) -> Path:
    newest = (run / "checkpoints" / "last").resolve()
    os.truncate(newest / "optimizer.bin", 10)
    return newest


def test_rank_0_chooses_for_all_ranks(blobs_config: Path, tmp_path: Path, launch: Launch) -> None:
    launch("train", blobs_config, *SAVE_ALL, "--train.epochs", "1", processes=2)
    newest = damage(tmp_path / "run")
    result = launch("train", blobs_config, *SAVE_ALL, "--resume", "auto", processes=2)
    output = result.stdout + result.stderr
    assert output.count("is damaged; it is kept and skipped") == 1, "one rank reads the checkpoints"
    assert f"resuming from {newest.with_name('step_00000002')}: epoch 0, step 2" in output
    records = [
        record for record in read_records(tmp_path / "run" / "metrics.jsonl") if "train/loss" in record
    ]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]


def test_all_ranks_end_where_rank_0_finds_no_checkpoint_to_resume_from(
    blobs_config: Path, tmp_path: Path, launch: Launch
) -> None:
    launch("train", blobs_config, "--train.epochs", "1")
    newest = damage(tmp_path / "run")
    result = launch("train", blobs_config, "--resume", "auto", processes=2, check=False)
    assert result.returncode != 0
    assert f"{newest}: optimizer.bin has 10 bytes" in result.stderr
    assert result.stderr.count("but no checkpoint to resume from") == 1, "rank 0 speaks for all"
    assert "Traceback" not in result.stderr.split("anynet: error")[0]
