"""The commands of the README, and of the guides that it leads to, do what they say, one after the other."""

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
from tests.shown_commands import run_shown
from tests.test_explore import COMMANDS as RUN_BY_THE_TEST_OF_EXPLORE

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TRAINING = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
NETWORKS = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
# The rest of that page has placeholders in its commands.
DATA = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("\n## Store a data set")[0]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


COMMANDS = dict.fromkeys(
    line
    for text in (README, TRAINING, NETWORKS, DATA)
    for block in blocks(text, "sh")
    for line in block.splitlines()
)
DOWNLOADS = [line for line in COMMANDS if "--download" in line]
RUN_HERE = [
    line
    for line in COMMANDS
    if line.split()[0] in ("anynet", "accelerate", "torchrun")
    and line not in DOWNLOADS
    and line not in RUN_BY_THE_TEST_OF_EXPLORE
]
# What keeps some of them short; all else is as it is written.
SHORTER = {
    "own_images.yaml": "--model.pretrained None --data.train_res 64 --train.max_steps 1"
    " --schedule.warmup_epochs 0",
    "cifar10/anynet_1m.yaml": "--train.max_steps 3 --schedule.warmup_epochs 0",
    "imagenet/regnetx_400mf.yaml": "--train.max_steps 1 --train.global_batch 8 --data.train_res 64"
    " --schedule.warmup_epochs 0 --eval.precise_bn 0",
    "--run.name second": "--train.epochs 5",
    "--run.name third": "--train.epochs 5",
    "bench loader": "--repeats 1",
}
# That file needs the GPUs that it names; tests/launch reads it.
LAUNCHERS = {"launch/one_machine.yaml --num_processes 8": "launch/two_processes.yaml"}


def test_every_command_is_one_that_a_test_runs() -> None:
    others = set(COMMANDS) - set(RUN_HERE) - set(DOWNLOADS) - set(RUN_BY_THE_TEST_OF_EXPLORE)
    assert others == {"make demo", "source .venv/bin/activate"}
    assert len(RUN_HERE) > 20


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 200
    assert max(len(block.splitlines()) for block in blocks(README, "sh")) <= 5


def test_commands_that_download_are_spelt_right() -> None:
    from anynet_dist.commands import data

    for line in DOWNLOADS:
        program, command, *arguments = shlex.split(line)
        assert (program, command) == ("anynet", "data")
        parser = Parser(prog="anynet data")
        data.configure(parser)
        assert parser.parse_args(arguments).download


def make_images(folder: Path) -> None:
    """Two classes of photographs in ImageNet's layout, the training images as a folder of one's own, and
    digits in place of CIFAR-10: ten classes of 32 x 32 pixels too."""
    from sklearn.datasets import load_sample_image

    root = folder / "datasets" / "imagenet"
    for split in ("train", "val"):
        for wnid, photograph in (("n00000001", "china.jpg"), ("n00000002", "flower.jpg")):
            (root / split / wnid).mkdir(parents=True)
            image = Image.fromarray(load_sample_image(photograph))
            for number in range(32):
                image.crop((number, 0, 320 + number, 240)).save(root / split / wnid / f"{number}.JPEG")
    (folder / "images").symlink_to(root / "train")
    (folder / "data").mkdir()
    (folder / "data" / "cifar10").symlink_to("digits")


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_commands_work_one_after_the_other(tmp_path: Path) -> None:
    pytest.importorskip("ffcv")
    for name in ("configs", "launch", "slurm"):
        (tmp_path / name).symlink_to(ROOT / name)
    make_images(tmp_path)
    run_shown(["anynet", "data", "build", "digits", "--out", "data/digits"], tmp_path)  # `make demo` has
    for command in RUN_HERE:
        for machine, here in LAUNCHERS.items():
            command = command.replace(machine, here)
        shorter = next((options for part, options in SHORTER.items() if part in command), "")
        run_shown(shlex.split(f"{command} {shorter}"), tmp_path)
    runs = {"first": 1, "own-images": 1, "second": 2, "third": 2, "cifar10-anynet": 2, "regnetx-400mf": 2}
    for run, processes in runs.items():
        console = (tmp_path / "runs" / run / "console.log").read_text()
        assert f"world size {processes} " in console
    (tmp_path / "photo.jpg").symlink_to(tmp_path / "images" / "n00000001" / "0.JPEG")
    shown = [block for text in (README, TRAINING) for block in blocks(text, "python")]
    program = "\n".join(shown).replace('"python"]', '"python", "--train.epochs", "5"]')
    run_shown([sys.executable, "-c", program], tmp_path)


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
    examples = [example for text in (README, NETWORKS) for example in blocks(text, "yaml")]
    assert len(examples) == 3
    for example in examples:
        assert build_anynet(**yaml.safe_load(example)["model"], num_classes=10)


def test_the_error_messages_shown_are_the_ones_given(tmp_path: Path) -> None:
    (tmp_path / "child.yaml").write_text(
        "optim:\n  lr: 0.1\n  weigth_decay: 1.0e-4\ntrain:\n  epochs: ninety\n"
    )
    with pytest.raises(ValueError, match="weigth_decay") as error:
        load_config(tmp_path / "child.yaml")
    shown = [block for block in blocks(TRAINING, "text") if "weigth_decay" in block]
    assert [line.rpartition("child.yaml")[2] for line in str(error.value).splitlines()] == [
        line.rpartition("child.yaml")[2] for line in shown[0].splitlines()
    ]
