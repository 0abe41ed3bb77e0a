"""What a finished run says to type next, typed into a shell."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import PATIENCE, Launch

pytestmark = pytest.mark.slow


def typed(output: str) -> subprocess.CompletedProcess[str]:
    """Run the command after `next:` in a shell in this folder, without this environment on its PATH."""
    (command,) = re.findall(r"^next: (.*)$", output, flags=re.M)
    plain = {**os.environ, "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, shell=True, env=plain, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("split", "count"), [("val", 24), ("train", 96)])
def test_a_run_without_test_images_is_evaluated_on_what_it_has(
    blobs_config: Path, tmp_path: Path, launch: Launch, split: str, count: int
) -> None:
    if not (Path(sys.executable).parent / "anynet").exists():
        pytest.skip("this environment has no `anynet` program")
    config = yaml.safe_load(blobs_config.read_text())
    del config["data"]["test"]
    config["run"]["dir"] = str(tmp_path / "a run")  # with a space
    if split == "train":
        del config["data"]["val_fraction"]
    blobs_config.write_text(yaml.safe_dump(config))
    trained = launch("train", blobs_config, "--train.epochs", "1")
    done = typed(trained.stdout)
    assert done.returncode == 0, done.stderr
    assert f"{split}: top-1 " in done.stdout
    assert f"on {count} images" in done.stdout
    assert ("it is evaluated on those of val" in done.stdout) == (split == "val")


@pytest.mark.parametrize("limit", [12, 48])
def test_too_few_open_files_are_a_sentence(blobs_config: Path, limit: int) -> None:
    """A hard limit, which the process cannot raise."""
    options = ["--data.loader", "torch", "--data.workers", "8", "--train.epochs", "1"]
    command = [sys.executable, "-m", "anynet_dist", "train", str(blobs_config), *options]
    done = subprocess.run(
        ["bash", "-c", f'ulimit -n {limit}; exec "$@"', "bash", *command],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"too many open files, this process may have {limit}: allow more (ulimit -n 4096" in done.stderr
    assert "Traceback" not in done.stderr
