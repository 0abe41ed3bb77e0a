"""The commands of docs/before-training.md, in their order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from anynet_dist.cli import main
from tests.conftest import ROOT
from tests.shown_commands import shown_commands

COMMANDS = shown_commands("docs/before-training.md")


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerate", "own_logging")
def test_they_do_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    shown = {}
    for command in COMMANDS:
        program, *words = shlex.split(command)
        assert program == "anynet"
        # The loader that needs no compiled library, and no measurement of the memory format: seconds each.
        quick = (
            [] if words[0] == "data" else ["--data.loader", "device", "--train.memory_format", "contiguous"]
        )
        assert main([*words, *quick]) == 0, command
        shown[command] = capsys.readouterr().out
        if "--dry-run" in words:
            assert not Path("runs").exists()
    _, dry, ranks, dev, sweep, debug = shown.values()
    assert "20 epochs x 20 steps = 400" in dry
    assert "64 images per step = 4 x 16 device(s) x 1 accumulated" in ranks
    assert "all parts work: 2 training steps, checkpoint, validation, test, model.safetensors" in dev
    assert Path("runs/digits-dev/model.safetensors").is_file()
    assert re.search(r"^suggestion: --optim\.lr \S+$", sweep, flags=re.M)
    assert Path("lr.png").is_file()
    assert Path("lr.csv").is_file()
    assert len(re.findall(r"^epoch 1/20  step 20/20", debug, flags=re.M)) == 2  # record and epoch
