from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anynet_dist.bench import loaders as loader_bench
from anynet_dist.commands import bench
from anynet_dist.data.loaders.factory import ffcv_installed
from anynet_dist.system.errors import UserError


def run(*words: str) -> None:
    parser = argparse.ArgumentParser()
    bench.configure(parser)
    bench.run(parser.parse_args(list(words)))


def images(root: Path, count: int, width: int = 50) -> Path:
    generator = np.random.default_rng(0)
    for number in range(count):
        folder = root / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (40, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return root


@pytest.mark.slow
def test_every_loader_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = images(tmp_path / "train", 16).parent
    run("loader", "--root", str(root), "--res", "16", "--batch", "4", "--repeats", "1", "--workers", "1")
    shown = capsys.readouterr().out
    assert "ImageFolder, PIL" in shown
    assert "1.00x" in shown
    for mode in ("raw", "proportion", "jpg"):
        assert (f"FFCV, {mode}" in shown) == ffcv_installed()


@pytest.mark.slow
def test_every_loader_is_measured_on_small_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_bench, "SMALL_EPOCH", 64)
    for split in ("train", "test"):
        images(tmp_path / split, 8, width=40)
    run(
        "loader", "--cifar", str(tmp_path), "--res", "40", "--batch", "16", "--repeats", "1", "--workers", "1"
    )
    shown = capsys.readouterr().out
    assert "images in memory, PIL" in shown
    assert "64 images an epoch" in shown
    assert "device" in shown
    assert ("FFCV, raw" in shown) == ffcv_installed()


@pytest.mark.slow
def test_the_way_to_the_first_batch_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = images(tmp_path / "train", 64)
    run(
        "loader",
        "--root",
        str(root),
        "--res",
        "16",
        "--repeats",
        "1",
        "--workers",
        "1",
        "--startup",
    )
    rows = [line.split("│")[1:] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    starts = [(row[0].strip(), row[1].strip(), row[-2].strip()) for row in rows if row[1].strip()]
    assert [start[1] for start in starts] == ["first", "later"] * (len(starts) // 2)
    assert ("ffcv" in [start[0] for start in starts]) == ffcv_installed()
    assert all(float(seconds) > 0 for _, _, seconds in starts)


def test_cifar_takes_no_beton_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--beton goes with --root"):
        run("loader", "--cifar", str(tmp_path), "--beton", "x.beton")


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 images, fewer than one batch of 64"):
        run("loader", "--root", str(images(tmp_path, 3)))


def test_scaling_shows_a_column_for_each_number_of_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    run("scaling", "--model", "resnet50", "--images-per-second", "2790", "--gpus", "8", "64")
    rows = {line[:36].strip(): line[36:].split() for line in capsys.readouterr().out.splitlines()}
    assert rows["GPUs"] == ["8", "64"]
    assert rows["global batch"] == ["1,024", "8,192"]
    assert rows["sent per GPU and step (MB)"] == [f"{2 * (n - 1) / n * 4 * 25.557032:.1f}" for n in (8, 64)]
    with pytest.raises(UserError, match="unknown preset 'resnet5'"):
        run("scaling", "--model", "resnet5", "--images-per-second", "1")


def test_the_tables_of_the_docs_are_what_the_commands_above_them_print(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (root / "docs" / "scaling.md").read_text()
    tables = re.findall(r"`anynet bench ([^`]*)`\n\n```text\n(.*?)```", text, flags=re.S)
    assert len(tables) == 4
    for words, shown in tables:
        run(*words.split())
        printed = capsys.readouterr().out
        assert [line.rstrip() for line in printed.splitlines()] == shown.splitlines(), words
