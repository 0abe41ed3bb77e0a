"""The README's commands do what it says, in the order in which it says them."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from anynet_dist.cli import Parser
from anynet_dist.config import load_config
from anynet_dist.models.anynet import build_anynet
from tests.conftest import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]
DOWNLOADS = [line for line in COMMANDS if "--download" in line]
RUN_HERE = [
    line
    for line in COMMANDS
    if line.split()[0] in ("anynet", "accelerate", "torchrun") and line not in DOWNLOADS
]
# What keeps some of them short; all else is as the README says it.
SHORTER = {
    "--run.name second": ("--train.epochs", "5"),
    "--run.name third": ("--train.epochs", "5"),
    "bench loader": ("--repeats", "1"),
}


def test_every_command_is_one_that_a_test_runs() -> None:
    others = set(COMMANDS) - set(RUN_HERE) - set(DOWNLOADS)
    assert others == {"make demo", "source .venv/bin/activate"}


def test_commands_that_download_are_spelt_right() -> None:
    from anynet_dist.commands import data

    for line in DOWNLOADS:
        program, command, *arguments = shlex.split(line)
        assert (program, command) == ("anynet", "data")
        parser = Parser(prog="anynet data")
        data.configure(parser)
        assert parser.parse_args(arguments).download


def make_imagenet(root: Path) -> None:
    """Two classes of photographs in ImageNet's layout."""
    from sklearn.datasets import load_sample_image

    for split in ("train", "val"):
        for wnid, photograph in (("n00000001", "china.jpg"), ("n00000002", "flower.jpg")):
            (root / split / wnid).mkdir(parents=True)
            image = Image.fromarray(load_sample_image(photograph))
            for number in range(32):
                image.crop((number, 0, 320 + number, 240)).save(root / split / wnid / f"{number}.JPEG")


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_commands_work_one_after_the_other(tmp_path: Path) -> None:
    pytest.importorskip("ffcv")
    for name in ("configs", "launch", "slurm"):
        (tmp_path / name).symlink_to(ROOT / name)
    make_imagenet(tmp_path / "datasets" / "imagenet")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in RUN_HERE:
        shorter = next((options for part, options in SHORTER.items() if part in command), ())
        result = subprocess.run(
            [*shlex.split(command), *shorter],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    for run, processes in (("first", 1), ("second", 2), ("third", 2)):
        console = (tmp_path / "runs" / run / "console.log").read_text()
        assert f"world size {processes} " in console


@pytest.mark.multiprocess
@pytest.mark.slow
def test_make_demo_trains_two_processes_to_97_percent(tmp_path: Path) -> None:
    """What `make demo` does once everything is installed, in a copy of the shipped files."""
    for name in ("configs", "launch"):
        (tmp_path / name).mkdir()
        subprocess.run(["cp", "-r", f"{ROOT / name}/.", str(tmp_path / name)], check=True)
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [str(tmp_path / "launch" / "demo.sh")], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    *_, accuracy, folder, next_command = result.stdout.splitlines()
    assert "world size 2 (cpu, gloo)" in result.stdout
    assert float(accuracy.split()[2].rstrip("%")) >= 97
    assert folder == "run folder: runs/digits"
    command = next_command.removeprefix("next: ")
    plain = {**environment, "PATH": "/usr/bin:/bin"}
    again = subprocess.run(command, shell=True, cwd=tmp_path, env=plain, capture_output=True, check=False)
    assert again.returncode == 0, again.stderr


def test_the_yaml_examples_describe_networks(tmp_path: Path) -> None:
    for example in blocks("yaml"):
        assert build_anynet(**yaml.safe_load(example)["model"], num_classes=10)


def test_the_error_messages_shown_are_the_ones_given(tmp_path: Path) -> None:
    (tmp_path / "child.yaml").write_text(
        "optim:\n  lr: 0.1\n  weigth_decay: 1.0e-4\ntrain:\n  epochs: ninety\n"
    )
    with pytest.raises(ValueError, match="weigth_decay") as error:
        load_config(tmp_path / "child.yaml")
    shown = [block for block in blocks("text") if "weigth_decay" in block]
    assert [line.rpartition("child.yaml")[2] for line in str(error.value).splitlines()] == [
        line.rpartition("child.yaml")[2] for line in shown[0].splitlines()
    ]
