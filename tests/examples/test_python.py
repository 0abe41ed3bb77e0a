"""The examples in Python run as their first lines say."""

import subprocess
import sys
from pathlib import Path

import pytest

from anynet_dist import load_model
from tests.conftest import PATIENCE, ROOT


def run(*words: object) -> str:
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_folder_is_trained_on_and_the_network_loaded(tmp_path: Path) -> None:
    images, folder = tmp_path / "images", tmp_path / "run"
    run("examples/make_images.py", images)
    answer = run("examples/train_folder.py", images, folder).splitlines()[-1]
    assert answer in load_model(folder).classes == ("building", "flower")
    assert (folder / "report.html").exists()


def test_networks_are_drawn_from_a_space() -> None:
    lines = run("examples/explore_space.py", "configs/sweep/anynetx_a.yaml", 3).splitlines()
    assert lines[0] == "anynetx-a: 16 degrees of freedom"
    assert len(lines) == 4
    assert all(line.endswith(" parameters") for line in lines[1:])
