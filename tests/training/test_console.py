"""What the console shows of a run: how it is set up, then a line per epoch."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from anynet_dist.config import load_config
from anynet_dist.runs.metrics_log import Record, read_records
from anynet_dist.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def fit(config: Path, *overrides: str) -> Record:
    return Trainer(load_config(config, overrides).config).fit()


def test_the_banner_tells_each_choice_once_with_its_reason(
    blobs_config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "anynet_dist")
    trainer = Trainer(load_config(blobs_config, ["--optim.lr", "None", "--train.max_steps", "5"]).config)
    trainer.close()
    rows = {label.strip(): value for label, value in (r.cells for r in caplog.records if hasattr(r, "cells"))}
    assert rows["devices"] == "world size 1 (cpu)"
    assert rows["precision"] == "fp32: as configured"
    assert rows["memory format"] == "contiguous: as configured"
    assert rows["data"] == "72 train, 37 test, 24 val images in 3 classes, trained on at 16 px"
    assert rows["loader"] == "device: as configured"
    assert re.fullmatch(r"\d+: \d+ cores by .*, shared by 1 ranks", rows["workers"])
    assert rows["batch"] == "24 images per step = 24 x 1 device(s) x 1 accumulated"
    assert rows["steps"] == "2 epochs x 3 steps = 6, of which 5 (train.max_steps)"
    assert rows["learning rate"].endswith("follows train.global_batch (0.1 at 512 images per step)")
    assert rows["schedule"].startswith("cosine, 0.166667 epochs (0 steps) of warm-up: ")
    parameters = sum(each.numel() for each in trainer.network.parameters())
    assert rows["network"].startswith(f"{parameters:,} parameters, ")
    assert f"run folder {tmp_path / 'run'}" in caplog.text
    assert caplog.text.count("as configured") == 3
    assert caplog.text.count("follows train.global_batch") == caplog.text.count("cores by") == 1


def test_choices_are_told_where_the_set_up_fails(
    blobs_config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "anynet_dist")
    with pytest.raises(ValueError, match=r"FFCV reads \.beton files"):
        Trainer(load_config(blobs_config, ["--data.loader", "ffcv"]).config)
    assert "precision: fp32: as configured" in caplog.text


@pytest.mark.parametrize(("level", "lines"), [("INFO", 2), ("DEBUG", 8)])
def test_a_line_per_epoch_and_at_debug_one_per_record(
    blobs_config: Path, level: str, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level, "anynet_dist")
    fit(blobs_config)
    shown = [line for line in caplog.messages if re.match(r"epoch \d/2  step", line)]
    assert len(shown) == lines
    assert len([line for line in shown if "val: top-1" in line]) == 2


def test_the_line_of_an_epoch_has_its_means(
    blobs_config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "anynet_dist")
    fit(blobs_config, "--train.epochs", "1")
    records = [r for r in read_records(tmp_path / "run" / "metrics.jsonl") if "train/loss" in r]
    assert len(records) == 3
    (line,) = (message for message in caplog.messages if message.startswith("epoch 1/1"))
    assert f"step 3/3  loss {sum(r['train/loss'] for r in records) / 3:.4f}" in line
    assert f"top-1 {sum(r['train/top1'] for r in records) / 3:6.2%}" in line
