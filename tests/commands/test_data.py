from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from anynet_dist.commands import data
from anynet_dist.data import beton_writer, sources
from anynet_dist.data.beton_format import BetonError
from anynet_dist.system.errors import UserError


def run(*words: str) -> None:
    parser = argparse.ArgumentParser()
    data.configure(parser)
    data.run(parser.parse_args(list(words)))


def test_build_and_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("build", "digits", "--out", str(tmp_path), "--workers", "1")
    assert "1,437" in capsys.readouterr().out
    run("inspect", str(tmp_path / "val.beton"))
    shown = capsys.readouterr().out
    for text in ("digits, val", "360", "10 (0, 1, 2", "32x32 pixels", "raw", "checksum are right"):
        assert text in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "train.beton",
        "train.beton.json",
        "val.beton",
        "val.beton.json",
    ]


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
    assert data.SOURCES == sources.SOURCES
    assert data.WRITE_MODES == beton_writer.WRITE_MODES
