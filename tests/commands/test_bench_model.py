"""`anynet bench model` on a network that takes milliseconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from anynet_dist.cli import main
from tests.conftest import ROOT

CONFIG = """
model: {num_blocks_per_stage: [1, 1], num_channels: [8, 8, 16], num_classes: 10}
data: {train_res: 16}
"""
SHORT = ("--batch", "4", "--rounds", "2", "--cpu")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(CONFIG)
    return file


def test_all_combinations_are_measured_and_written(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "tiny.json"
    grid = ["--pass", "forward", "train", "--precision", "fp32", "bf16", "--json", str(out)]
    assert main(["bench", "model", str(config), *SHORT, *grid, "--peer", "timm"]) == 0
    shown = capsys.readouterr().out
    assert "images/s" in shown
    assert "timm is left out" in shown
    facts = json.loads(out.read_text())
    rows = facts["rows"]
    ways = [(row["work"], row["memory_format"], row["precision"]) for row in rows]
    assert len(set(ways)) == len(rows) == 8
    for work in ("forward", "train"):
        assert next(row["ratio"] for row in rows if row["work"] == work) == 1
    for row in rows:
        assert len(row["seconds"]) == len(row["cpu_seconds"]) == 2
        line = facts["limits"][row["precision"]][row["work"]]["bandwidth_images_per_second"]
        assert row["bandwidth_share"] == pytest.approx(row["images_per_cpu_second"] / line)
    assert facts["environment"]["threads"] == torch.get_num_threads()
    assert facts["environment"]["versions"]["torch"] in torch.__version__


def test_json_takes_the_place_of_the_table(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--memory-format", "contiguous", "--compile", "off", "reduce-overhead", "--json"]
    assert main(["bench", "model", str(config), *SHORT, *options]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [row["compile"] for row in facts["rows"]] == ["off"]
    assert "reduce-overhead is left out: CUDA graphs need a GPU" in facts["notes"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet5"], "unknown preset 'resnet5'"),
        (["resnet50", "--batch", "0"], "must be at least 1"),
        (["resnet50", "--compile", "fast"], "invalid choice: 'fast'"),
        (["resnet50", "--json", str(ROOT)], "is a folder"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "model", *words]) == 2
    assert message in capsys.readouterr().err
