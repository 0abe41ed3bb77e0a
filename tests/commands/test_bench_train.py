"""`anynet bench train` on a network that takes milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest

from anynet_dist.bench.train import overhead
from anynet_dist.cli import main

SHORT = ("--rounds", "2", "--steps", "2", "--warm-up", "1")
FEW = ("--train.global_batch", "8", "--data.loader", "device")


@pytest.mark.slow
def test_trainer_bare_loop_and_changed_options_are_measured(
    blobs_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, run = tmp_path / "train.json", tmp_path / "run"
    compare = ["--compare", "ema.decay=0.9 ema.every=4", "--batches", "synthetic", "--json", str(out)]
    assert main(["bench", "train", str(blobs_config), *SHORT, *FEW, *compare]) == 0
    assert "the trainer takes" in capsys.readouterr().out
    facts = json.loads(out.read_text())
    kinds = [(row["what"], row["batches"]) for row in facts["rows"]]
    subjects = ("trainer", "bare loop", "ema.decay=0.9 ema.every=4")
    assert kinds == [(what, "synthetic") for what in subjects]
    for row in facts["rows"]:
        assert len(row["seconds"]) == len(row["cpu_seconds"]) == 2
        assert row["images_per_second"] == pytest.approx(16 / median(row["seconds"]))
    assert not run.exists()


def test_the_overhead_is_the_processor_time_beside_the_bare_loop() -> None:
    rows = [
        {"what": "trainer", "batches": "loader", "images_per_cpu_second": 100.0},
        {"what": "bare loop", "batches": "loader", "images_per_cpu_second": 110.0},
    ]
    assert overhead(rows, "loader") == pytest.approx(0.1)
    assert overhead(rows[:1], "loader") is None


@pytest.mark.slow
def test_what_keeps_a_training_from_starting_is_told(
    blobs_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "train", str(blobs_config), *SHORT, "--data.train", "nowhere", "--no-bare"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_changes_name_an_option_and_a_value(blobs_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "train", str(blobs_config), "--compare", "compile"]) == 2
    assert "--compare takes OPTION=VALUE" in capsys.readouterr().err
    assert main(["bench", "train", str(blobs_config), "--compare", "train.compil=full"]) == 2
    assert "train.compile" in capsys.readouterr().err
