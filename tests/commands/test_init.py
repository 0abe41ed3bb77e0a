"""anynet init: a starting point that replaces nothing, and whose commands work."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from anynet_dist.cli import main
from anynet_dist.config import load_config
from tests.conftest import ROOT


def test_what_is_written_is_complete_and_leads_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my images"
    assert main(["init", str(folder)]) == 0
    said = capsys.readouterr().out
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    launch = {
        f"launch/{path.name}" for path in (ROOT / "launch").iterdir() if path.suffix in (".yaml", ".json")
    }
    assert written == {"own_images.yaml", "slurm/site.sh", *launch}
    assert load_config(folder / "own_images.yaml").config.model.pretrained
    commands = said.partition("next:\n")[2].splitlines()
    assert shlex.split(commands[0]) == ["cd", str(folder)]
    monkeypatch.chdir(folder)
    for split in ("train", "val"):  # the user's images
        (folder / "images" / split / "any").mkdir(parents=True)
    for command in commands[1:]:
        words = shlex.split(command)
        for word in words:
            if word.endswith((".yaml", ".sh")):
                assert Path(word).is_file(), command
        if words[1] in ("config", "submit"):
            assert main(words[1:]) == 0, command
    if sys.prefix != sys.base_prefix:
        assert f"ANYNET_VENV={shlex.quote(sys.prefix)}" in Path("slurm/site.sh").read_text()


def test_the_comments_name_the_files_where_they_are(tmp_path: Path) -> None:
    assert main(["init", str(tmp_path)]) == 0
    text = (tmp_path / "own_images.yaml").read_text()
    assert "anynet train own_images.yaml" in text
    assert "configs/" not in text


def test_what_is_there_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own_images.yaml").write_text("mine")
    assert main(["init"]) == 0
    said = capsys.readouterr().out
    assert "own_images.yaml exists already and is unchanged" in said
    assert Path("own_images.yaml").read_text() == "mine"
    assert "slurm/site.sh written" in said
    assert "cd " not in said


def test_a_folder_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["init", str(tmp_path / "file" / "here")]) == 2
    assert f"{tmp_path / 'file'} is not a folder" in capsys.readouterr().err
