"""A folder of one's own images: trained on at once, whatever its path and the terminal are made of."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from anynet_dist.config import load_config
from anynet_dist.runs.network_file import load_network
from anynet_dist.system.errors import UserError
from anynet_dist.training import build
from tests.conftest import Launch

ODD = os.fsdecode(b"caf\xe9")


def fill(root: Path, *classes: str, sides: tuple[int, int] = (16, 16)) -> Path:
    generator = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(16):
            pixels = generator.integers(0, 100, (*sides, 3), dtype=np.uint8)
            pixels[:, :, label] += np.uint8(100)
            size = (sides[1] + number % 2 * 8, sides[0]) if sides[0] != 16 else sides
            Image.fromarray(pixels).resize(size).save(root / name / f"{number:03}.png")
    return root


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config of a tiny network, without a word about data."""
    options = {
        "run": {"dir": str(tmp_path / ODD / "run"), "name": "own"},
        "data": {"val_fraction": 0.25, "loader": "device"},
        "model": {
            "num_blocks_per_stage": [1],
            "num_channels": [8, 8],
            "strides": [1],
            "stem": "conv3x3_s2",
        },
        "train": {"epochs": 1, "global_batch": 12, "precision": "fp32", "memory_format": "contiguous"},
        "optim": {"lr": 0.05},
        "tracking": {"report": False},
    }
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(options))
    return path


@pytest.mark.slow
def test_paths_and_terminals_without_utf8(
    config: Path, tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("LC_ALL", "C"), ("PYTHONIOENCODING", "ascii"), ("PYTHONUTF8", "1")):
        monkeypatch.setenv(name, value)
    root, run = fill(tmp_path / ODD / "bilder", ODD, "naïve"), tmp_path / ODD / "run"
    outputs = [
        launch("train", config, "--data.train", root),
        launch("eval", run, "--split", "val"),
        launch("predict", run, root / ODD / "000.png", root / "naïve"),
        launch("predict", run, root / ODD, "--json"),
        launch(
            "data",
            "build",
            "imagefolder",
            "--root",
            root,
            "--val-fraction",
            "0.25",
            "--out",
            tmp_path / ODD / "out",
        ),
        launch("data", "inspect", tmp_path / ODD / "out" / "val.beton"),
    ]
    for output in outputs:
        for sign in ("Traceback", "Logging error", "Error"):
            assert sign not in output.stdout + output.stderr
    console = (run / "console.log").read_text(encoding="utf-8")
    reason = f"data.mean and data.std: those of ImageNet, because the images of {tmp_path}/caf\\xe9"
    assert console.count(reason) == 1
    saved = load_config(run / "config.yaml").config
    assert saved.data.train == str(root)
    assert saved.data.mean == (0.485, 0.456, 0.406)
    assert load_network(run)[1].classes == ("caf\\xe9", "naïve")
    guesses = json.loads(outputs[3].stdout)
    assert guesses[0]["image"] == f"{tmp_path}/caf\\xe9/bilder/caf\\xe9/000.png"
    assert {guess["name"] for guess in guesses[0]["predictions"]} == {"caf\\xe9", "naïve"}
    sidecar = json.loads((tmp_path / ODD / "out" / "val.beton.json").read_text())
    assert sidecar["split_rule"] == "drawn by seed 0, stratified by class: val 0.25"


@pytest.mark.parametrize(
    ("side", "tried"), [(300, "about 300 pixels, so try --data.train_res 224"), (50, "about 50 .* 48")]
)
def test_a_resolution_is_suggested_where_images_differ_in_size(
    side: int, tried: str, config: Path, tmp_path: Path
) -> None:
    root = fill(tmp_path / "own", "cat", "dog", sides=(side, side))
    loaded = load_config(config, ["--data.train", str(root)]).config
    with pytest.raises(UserError, match=f"{tried} --data.augment.random_resized_crop true$"):
        build.resolve(loaded, build.open_splits(loaded)["train"])


def test_measured_or_given_normalisation_is_kept(
    config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = fill(tmp_path / "own", "cat", "dog")
    options = ["--data.train", str(root), "--data.mean", "0.1", "0.2", "0.3"]
    loaded = load_config(config, options).config
    with caplog.at_level("INFO", "anynet_dist"):
        resolved = build.resolve(loaded, build.open_splits(loaded)["train"])
    assert resolved.data.mean == (0.1, 0.2, 0.3)
    assert resolved.data.std == (0.229, 0.224, 0.225)
    assert "data.std: those of ImageNet" in caplog.text
