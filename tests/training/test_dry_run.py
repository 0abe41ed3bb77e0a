"""What is checked and shown before a run trains."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from anynet_dist.cli import main
from anynet_dist.config import load_config
from anynet_dist.runs.metrics_log import read_records
from anynet_dist.system.errors import UserError
from anynet_dist.training.dry_run import dry_run
from anynet_dist.training.lr_plot import WIDTH, lr_plot
from anynet_dist.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

Shown = Callable[..., str]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], blobs_config: Path, own_logging: None) -> Shown:
    """What `anynet train` prints; the exit code must be the one given."""

    def show(*options: str, code: int = 0) -> str:
        assert main(["train", str(blobs_config), *options]) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return show


def test_it_shows_everything_and_writes_nothing(shown: Shown, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    text = shown("--dry-run")
    assert sorted(tmp_path.rglob("*")) == before
    for words in (
        "72 train, 37 test, 24 val images in 3 classes, trained on at 16 px",
        "2 epochs x 3 steps = 6",
        "24 images per step = 24 x 1 device(s) x 1 accumulated",
        "1 x bottleneck /2",
        "checkpoints    written beside the next steps",
        "training, 24 images at a time   fp32 (MiB)",
        "learning rate\n        0.05 |██",
        "step 6",
    ):
        assert words in text


def test_a_run_does_what_it_planned(blobs_config: Path) -> None:
    config = load_config(blobs_config, ["--train.max_device_batch", "12", "--optim.lr", "None"]).config
    planned = dry_run(config)
    run = Trainer(config)
    run.close()
    assert planned.plan.batches == run.plan.batches
    assert planned.plan.total_steps == run.plan.total_steps
    assert planned.config == run.config
    assert [planned.plan.learning_rate(step) for step in range(6)] == [
        run.plan.learning_rate(step) for step in range(6)
    ]


def test_it_plans_for_ranks_that_are_not_here(shown: Shown) -> None:
    text = shown("--dry-run", "--world-size", "4", "--train.max_device_batch", "3", "--log.format", "json")
    planned = json.loads(text.splitlines()[-1])
    assert (planned["world_size"], planned["device_batch"], planned["accumulation"]) == (4, 3, 2)
    assert (planned["steps_per_epoch"], planned["total_steps"]) == (3, 6)
    assert "about 18 of 72 training images an epoch" in planned["message"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--world-size", "5"), "24 images cannot be divided evenly among 5 devices; set it to 20 or 25"),
        (("--world-size", "0"), "--world-size must be at least 1, not 0"),
        (("--data.loader", "ffcv"), "FFCV reads .beton files"),
        (("--data.train_res", "12", "--data.augment.translate", "13"), "translate"),
        (("--train.global_batch", "96"), "72 samples, fewer than one global batch of 96"),
        (("--model.pretrained", "nothing.safetensors"), "nothing.safetensors"),
        (("--train.activation_checkpointing", "stage7"), "stage7"),
        (("--optim.options", "{a: 1}"), "--optim.options: sgd has no such option"),
        (("--data.workers", "1000"), "workers must be between"),
    ],
)
def test_it_refuses_what_the_run_would(shown: Shown, options: tuple[str, ...], message: str) -> None:
    assert message in shown("--dry-run", *options, code=2)


def test_a_finished_run_is_in_the_way_unless_resumed(
    shown: Shown, blobs_config: Path, tmp_path: Path
) -> None:
    Trainer(load_config(blobs_config, ["--train.epochs", "1"]).config).fit()
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*")}
    assert "already holds a finished run" in shown("--dry-run", code=2)
    assert "step_00000003, step 3" in shown("--dry-run", "--resume", "auto")
    assert "optim.weight_decay: 5.0e-05 -> 0.1" in shown(
        "--dry-run", "--resume", "auto", "--optim.weight_decay", "0.1", code=2
    )
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*")} == before


def test_a_world_size_alone_is_refused(shown: Shown) -> None:
    assert "--world-size goes with --dry-run only" in shown("--world-size", "2", code=2)


def test_the_curve_has_its_peak_and_its_end() -> None:
    lines = lr_plot(lambda step: 0.4 * math.exp(-((step - 500) ** 2) / 5000), 1000)
    assert lines[0].startswith("         0.4 |")
    peak = lines[0].partition("|")[2]
    assert len(peak) - len(peak.lstrip()) in range(WIDTH // 2 - 3, WIDTH // 2 + 1)
    assert lines[-1].endswith("step 1,000")


def test_a_dev_run_does_two_steps_of_everything(shown: Shown, tmp_path: Path) -> None:
    options = ("--fast-dev-run", "--train.epochs", "50", "--eval.batch_size", "4", "--tracking.tensorboard")
    (done,) = (line for line in shown(*options).splitlines() if line.startswith("all parts work"))
    assert done.startswith(
        "all parts work: 2 training steps, checkpoint, validation, test, model.safetensors"
    )
    run = tmp_path / "run-dev"
    records = read_records(run / "metrics.jsonl")
    assert [record["step"] for record in records if "train/loss" in record] == [1, 2]
    assert [
        record[f"{split}/count"]
        for split in ("val", "test")
        for record in records
        if f"{split}/count" in record
    ] == [8, 8]
    assert (run / "model.safetensors").is_file()
    assert not (run / "tensorboard").exists()
    assert not (tmp_path / "run").exists()


def test_a_dev_run_replaces_its_own_folder_only(shown: Shown, blobs_config: Path, tmp_path: Path) -> None:
    real = load_config(blobs_config, ["--run.dir", str(tmp_path / "run-dev"), "--train.epochs", "1"]).config
    Trainer(real).fit()
    assert "run-dev already holds a finished run" in shown("--fast-dev-run", code=2)
    for _ in range(2):
        shown("--fast-dev-run", "--run.dir", str(tmp_path / "other"))


def test_only_one_of_the_two(shown: Shown) -> None:
    with pytest.raises(UserError, match="not allowed with argument"):
        raise UserError(shown("--dry-run", "--fast-dev-run", code=2))
