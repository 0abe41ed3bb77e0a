"""`anynet bench checkpoint` on a network that is small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anynet_dist.cli import main

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

CONFIG = """
model: {num_blocks_per_stage: [1, 1], num_channels: [8, 8, 16], num_classes: 10}
data: {train_res: 16}
"""


def test_both_ways_to_save_are_measured_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, disk, out = tmp_path / "tiny.yaml", tmp_path / "disk", tmp_path / "tiny.json"
    config.write_text(CONFIG)
    disk.mkdir()
    options = ["--ema", "--rounds", "2", "--cpu", "--folder", str(disk), "--json", str(out)]
    assert main(["bench", "checkpoint", "--model", str(config), *options]) == 0
    shown = capsys.readouterr().out
    assert "weights, moving average and optimizer state" in shown
    assert not list(disk.iterdir())
    facts = json.loads(out.read_text())
    waits, beside = facts["rows"]
    assert (waits["way"], beside["way"]) == ("the steps wait", "beside the steps")
    assert waits["block_ratio"] == waits["block_cpu_ratio"] == 1
    for row in facts["rows"]:
        assert len(row["seconds"]["block"]) == len(row["seconds"]["total"]) == 2
        assert 0 < row["block_ms"] <= row["total_ms"]
    # Weights, moving average and momentum of at least so many parameters of four bytes.
    assert waits["megabytes"] == beside["megabytes"] > 3 * 4 * 3000 / 1e6
    assert facts["environment"]["versions"]["torch"]


def test_a_folder_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "regnetx_200mf", "--folder", str(tmp_path / "nowhere")]
    assert main(["bench", "checkpoint", *options]) == 2
    assert "nowhere is not a folder: name one on the disk to measure" in capsys.readouterr().err
