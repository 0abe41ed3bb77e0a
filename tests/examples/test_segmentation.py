"""The example of another task: dense labels."""

import shutil
from pathlib import Path

import pytest

from anynet_dist.runs.metrics_log import read_records
from tests.conftest import ROOT, Launch

pytestmark = pytest.mark.slow


def test_ink_is_segmented_with_every_guarantee_of_a_run(
    tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scores choose the best checkpoint, are logged and evaluated, and a resumed run continues them."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    launch("data", "build", "digits", "--out", "data/digits")
    config = "examples/segmentation.yaml"
    launch("train", config, "--train.epochs", "1")
    result = launch("train", config, "--resume", "auto")
    assert "IoU" in result.stdout
    records = read_records(tmp_path / "runs" / "segmentation" / "metrics.jsonl")
    assert [r["step"] for r in records if "train/iou" in r] == [10, 20, 30, 40]
    validated = [record["val/iou"] for record in records if "val/iou" in record]
    tested = records[-1]["test/iou"]
    assert len(validated) == 2
    assert tested > 0.8, "guessing paper everywhere finds no ink at all: 0"
    evaluated = launch("eval", "runs/segmentation", "--allow-plugins")
    assert f"iou {tested:.4g}" in evaluated.stdout
    assert f"test IoU {tested:.2%}" in result.stdout


def test_the_examples_are_short() -> None:
    for file in (ROOT / "examples").glob("*.py"):
        assert len(file.read_text().splitlines()) < 120
