from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from anynet_dist.bench import storage as plan
from anynet_dist.commands import data
from anynet_dist.data import sources
from anynet_dist.data.beton import profiles
from anynet_dist.data.beton import writer as beton_writer
from anynet_dist.data.beton.format import BetonError, read_table
from anynet_dist.data.beton.sidecar import open_beton
from anynet_dist.system.errors import UserError


@pytest.fixture(autouse=True)
def usual_logging() -> Iterator[None]:
    """A command sets up the package's log; other tests find it as it was."""
    logger = logging.getLogger("anynet_dist")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)
    logging.captureWarnings(False)


def run(*words: str) -> None:
    parser = argparse.ArgumentParser()
    data.configure(parser)
    data.run(parser.parse_args(list(words)))


def test_build_and_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("build", "digits", "--out", str(tmp_path), "--workers", "1")
    shown = capsys.readouterr().out
    assert "1,437" in shown
    assert "expected to take" in shown
    run("inspect", str(tmp_path / "val.beton"))
    shown = capsys.readouterr().out
    for text in ("digits, val", "360", "10 (0, 1, 2", "32x32 pixels", "raw", "checksum are right"):
        assert text in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "train.beton",
        "train.beton.crc32",
        "train.beton.json",
        "val.beton",
        "val.beton.crc32",
        "val.beton.json",
    ]


@pytest.mark.parametrize("name", ["train.beton", "val.beton", "train.beton.crc32", "val.beton.json"])
def test_a_build_asks_for_the_files_of_both_splits_before_it_reads_anything(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=rf"/{name} exists already: .*--overwrite"):
        run("build", "imagefolder", "--root", str(tmp_path / "nowhere"), "--out", str(tmp_path))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_a_build_replaces_what_is_there_when_told(tmp_path: Path) -> None:
    for name in ("train.beton", "val.beton.json"):
        (tmp_path / name).write_text("mine")
    run("build", "digits", "--out", str(tmp_path), "--workers", "1", "--overwrite")
    assert [open_beton(tmp_path / f"{split}.beton")[1].num_samples for split in ("train", "val")] == [
        1437,
        360,
    ]


def test_a_build_does_not_take_the_place_of_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "val.beton")
    with pytest.raises(UserError, match=r"val\.beton is a named pipe, not a file"):
        run("build", "digits", "--out", str(tmp_path), "--workers", "1", "--overwrite")
    assert [path.name for path in tmp_path.iterdir()] == ["val.beton"]
    with pytest.raises(UserError, match=rf"cannot be written: {tmp_path}/val\.beton is not a folder"):
        run("build", "digits", "--out", str(tmp_path / "val.beton"), "--workers", "1")


def test_inspect_shows_class_names_that_look_like_markup(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("[red]", "[b]"):
        (tmp_path / "[own]" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (4, 4)).save(tmp_path / "[own]" / name / f"{number}.png")
    out = tmp_path / "out"
    run("build", "imagefolder", "--root", f"{tmp_path}/[own]", "--val-fraction", "0.5", "--out", str(out))
    capsys.readouterr()
    run("inspect", str(out / "val.beton"))
    assert "2 ([b], [red])" in capsys.readouterr().out


def test_inspect_refuses_a_changed_file(tmp_path: Path) -> None:
    run("build", "digits", "--out", str(tmp_path), "--workers", "1")
    path = tmp_path / "val.beton"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(BetonError, match=r"val\.beton: damaged or incomplete"):
        run("inspect", str(path))


def test_a_source_without_its_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--root"):
        run("build", "imagenet", "--out", str(tmp_path))


def test_the_choices_offered_are_those_there_are() -> None:
    assert tuple(sources.SOURCES) == data.SOURCES
    assert data.WRITE_MODES == beton_writer.WRITE_MODES
    assert data.BAD_IMAGE_POLICIES == beton_writer.BAD_IMAGE_POLICIES
    assert tuple(profiles.PROFILES) == data.PROFILES
    plain = beton_writer.WriteOptions()
    assert {name: getattr(plain, name) for name in data.STORAGE} == data.STORAGE


@pytest.mark.slow
def test_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("build", "digits", "--out", str(tmp_path), "--workers", "1", "--shard-check")
    path = tmp_path / "val.beton"
    run("verify", str(path))
    assert "tables and checksum are right (360 images)" in capsys.readouterr().out
    run("verify", str(path), "--deep", "--workers", "1")
    assert "every image are right" in capsys.readouterr().out
    content = bytearray(path.read_bytes())
    content[read_table(path).starts[7]] ^= 255
    path.write_bytes(content)
    with pytest.raises(BetonError, match="--deep"):
        run("verify", str(path))
    with pytest.raises(BetonError, match=r"val\.beton: sample 7 .*its bytes changed"):
        run("verify", str(path), "--deep", "--workers", "1")


def test_a_profile_sets_how_images_are_stored(tmp_path: Path) -> None:
    run("build", "digits", "--out", str(tmp_path), "--workers", "1", "--profile", "jpeg500")
    sidecar = open_beton(tmp_path / "val.beton")[1]
    assert (sidecar.write_mode, sidecar.max_resolution, sidecar.quality) == ("jpg", 500, 90)
    with pytest.raises(UserError, match="--profile raw256 sets these itself, so leave out --quality"):
        run("build", "digits", "--out", str(tmp_path), "--profile", "raw256", "--quality", "80")


@pytest.mark.slow
def test_plan(blobs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "MEASURED_SECONDS", 0.02)
    run(
        "plan",
        "imagefolder",
        "--root",
        str(blobs),
        "--images-per-second",
        "1",
        "--gpus",
        "2",
        "--workers",
        "1",
    )
    shown = capsys.readouterr().out
    assert all(name in shown for name in profiles.PROFILES)
    assert "wanted 2 images/s" in shown
    assert "take --profile mix500" in shown  # a JPEG of 16x16 pixels is larger than its pixels


@pytest.mark.parametrize(
    "words",
    [
        ["build", "digits", "--out", "x", "--workers", "0"],
        ["plan", "digits", "--gpus", "0"],
        ["plan", "digits", "--images-per-second", "-1"],
    ],
)
def test_impossible_numbers_are_refused(words: list[str]) -> None:
    with pytest.raises(UserError):
        run(*words)
