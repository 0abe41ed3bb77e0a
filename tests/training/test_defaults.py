"""What is not set must train; what cannot train is refused before anything takes time."""

import logging
from pathlib import Path

import pytest
import torch
import yaml

from anynet_dist.config import load_config
from anynet_dist.config.errors import ConfigError
from anynet_dist.data.beton.build import build_source
from anynet_dist.data.sources import load_source
from anynet_dist.runs.metrics_log import read_records
from anynet_dist.system.errors import UserError
from anynet_dist.training.defaults import reference_lr
from anynet_dist.training.optim.losses import balanced_weights
from anynet_dist.training.trainer import Trainer
from tests.conftest import Launch

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


# It gives the same answer whatever it sees.
CONSTANT_HEAD = """
import torch
from anynet_dist.models.heads import LinearHead
from anynet_dist.models.registry import register_head

@register_head("constant")
class ConstantHead(LinearHead):
    def forward(self, x):
        logits = super().forward(x)
        return logits * 0 + torch.eye(logits.shape[1])[1]
"""


@pytest.fixture
def unset(blobs_config: Path) -> Path:
    """The config of the blobs without a learning rate."""
    config = yaml.safe_load(blobs_config.read_text())
    del config["optim"]
    blobs_config.write_text(yaml.safe_dump(config))
    return blobs_config


def trainer(config: Path, *overrides: str) -> Trainer:
    return Trainer(load_config(config, overrides).config)


def test_the_learning_rate_follows_the_batch_up_to_a_bound() -> None:
    assert reference_lr("sgd", 512) == 0.1
    assert reference_lr("sgd", 64) == 0.0125
    assert reference_lr("adamw", 1024) == 0.001
    assert reference_lr("sgd", 100_000) == reference_lr("sgd", 8192) == 1.6


def test_what_is_not_set_is_chosen_and_logged_with_its_reason(
    unset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "anynet_dist")
    chosen = trainer(unset, "--train.epochs", "20")
    chosen.close()
    assert chosen.config.optim.lr == pytest.approx(0.1 * 24 / 512)
    assert chosen.config.schedule.warmup_epochs == 2
    assert "0.0046875: optim.lr is not set, so it follows train.global_batch" in caplog.text
    assert "2 epochs (6 steps) of warm-up: schedule.warmup_epochs is not set: a tenth of" in caplog.text
    saved = yaml.safe_load((chosen.folder.path / "config.yaml").read_text())
    assert saved["optim"]["lr"] == chosen.config.optim.lr
    long = trainer(unset, "--train.epochs", "200", "--run.overwrite", "true")
    long.close()
    assert long.config.schedule.warmup_epochs == 5


def test_the_length_of_the_warm_up_follows_max_steps(unset: Path) -> None:
    chosen = trainer(unset, "--train.epochs", "90", "--train.max_steps", "30")
    chosen.close()
    assert chosen.config.schedule.warmup_epochs == 1  # three steps of thirty
    onecycle = trainer(
        unset, "--schedule.name", "onecycle", "--train.epochs", "10", "--run.overwrite", "true"
    )
    onecycle.close()
    assert onecycle.config.schedule.warmup_epochs == 3


def test_a_number_that_is_set_is_used_as_it_is(unset: Path) -> None:
    chosen = trainer(unset, "--optim.lr", "7", "--train.epochs", "20")
    chosen.close()
    assert (chosen.config.optim.lr, chosen.config.schedule.warmup_epochs) == (7, 0)
    both = trainer(unset, "--schedule.warmup_epochs", "0", "--run.overwrite", "true")
    both.close()
    assert both.config.schedule.warmup_epochs == 0


def test_a_resumed_run_keeps_what_was_chosen(unset: Path) -> None:
    trainer(unset, "--train.epochs", "2").fit()
    longer = trainer(unset, "--train.epochs", "10", "--resume", "auto")
    longer.close()
    assert longer.config.schedule.warmup_epochs == pytest.approx(0.2)


@pytest.mark.slow
def test_a_published_network_trains_on_the_digits_with_nothing_set(tmp_path: Path, launch: Launch) -> None:
    build_source(load_source("digits"), tmp_path, workers=1)
    config = tmp_path / "mine.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "run": {"dir": str(tmp_path / "run"), "cpu": True},
                "model": {"preset": "regnetx_200mf"},
                "data": {"train": str(tmp_path / "train.beton"), "val": str(tmp_path / "val.beton")},
                "train": {"global_batch": 64, "epochs": 5, "precision": "fp32"},
                "tracking": {"report": False},
            }
        )
    )
    output = launch("train", config).stdout
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    assert max(record["val/top1"] for record in records if "val/top1" in record) > 0.8
    assert "far above" not in output


def test_steps_that_are_too_large_are_named_once(
    blobs_config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(blobs_config, "--optim.lr", "100", "--train.log_every", "3", "--train.epochs", "1").fit()
    warnings = [record.getMessage() for record in caplog.records if "far above" in record.getMessage()]
    assert len(warnings) == 1
    assert "far above the 1.1 of guessing: lower optim.lr (100)" in warnings[0]
    caplog.clear()
    trainer(blobs_config, "--train.log_every", "3", "--run.overwrite", "true").fit()
    assert "far above" not in caplog.text


def test_a_warm_up_longer_than_the_steps_is_refused(blobs_config: Path) -> None:
    with pytest.raises(UserError, match=r"warmup_epochs: 2 epochs are 6 steps, but the whole run has 4"):
        trainer(blobs_config, "--schedule.warmup_epochs", "2", "--train.max_steps", "4")


DEEP = (
    *("--model.num_blocks_per_stage", "1", "1", "1", "--model.num_channels", "8", "8", "8", "8"),
    *("--model.strides", "2", "2", "2", "--data.drop_last", "false"),
)  # fmt: skip


def test_batch_norm_on_a_single_value_is_refused_at_the_start(blobs_config: Path, tmp_path: Path) -> None:
    message = (
        r"the last batch of an epoch has 1 image on a device, and at 16 x 16 pixels stage3 puts out 1 x 1"
    )
    with pytest.raises(UserError, match=message):
        trainer(blobs_config, *DEEP, "--train.global_batch", "71")
    assert not (tmp_path / "run" / "config.yaml").exists()
    with pytest.raises(UserError, match="a batch has 1 image on a device"):
        trainer(blobs_config, *DEEP, "--train.max_device_batch", "1")
    trainer(blobs_config, *DEEP, "--train.global_batch", "70").fit()


def test_too_few_images_are_refused_before_the_network_is_built(
    blobs_config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "anynet_dist")
    with pytest.raises(UserError, match="72 samples, fewer than one global batch of 96"):
        trainer(blobs_config, "--train.global_batch", "96")
    assert "network:" not in caplog.text
    assert "world size" not in caplog.text


@pytest.mark.slow
def test_early_stopping_needs_validation_and_stops(blobs_config: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.early_stopping: needs validation images"):
        load_config(blobs_config, ["--train.early_stopping", "2", "--data.val_fraction", "0"])
    options = ("--train.epochs", "50", "--train.early_stopping", "2")
    stopped = trainer(blobs_config, *options)
    stopped.fit()
    scores = [r["val/top1"] for r in read_records(tmp_path / "run" / "metrics.jsonl") if "val/top1" in r]
    best = scores.index(max(scores))
    assert len(scores) == best + 3 < 50
    assert stopped.progress.best == max(scores)
    assert (tmp_path / "run" / "model.safetensors").exists()
    longer = trainer(blobs_config, *options[:3], "4", "--resume", "auto")
    longer.fit()
    assert longer.progress.epoch > len(scores), "more patience goes on"


def test_a_network_with_one_answer_is_named_and_scored_class_by_class(
    blobs_config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "anynet_dist")
    plugin = tmp_path / "constant.py"
    plugin.write_text(CONSTANT_HEAD)
    options = ("--plugins", str(plugin), "--model.head", "constant", "--train.epochs", "1")
    result = trainer(blobs_config, *options).fit()
    assert result["test/classes_predicted"] == 1
    assert result["test/balanced_top1"] == pytest.approx(1 / 3)
    assert result["test/class_top1"] == [0, 1, 0]
    assert result["test/largest_class"] == 13 / 37
    assert (
        "test: the network answers 'class1' for every image, which is right for 32.4% of them" in caplog.text
    )
    assert "1 of 3 classes predicted" in caplog.text


def test_balanced_class_weights_follow_the_training_images(blobs_config: Path) -> None:
    weighted = trainer(blobs_config, "--train.class_weights", "balanced", "--train.epochs", "1")
    labels = weighted.task.setting.labels
    expected = balanced_weights(labels, 3)
    assert torch.equal(torch.as_tensor(weighted.task.setting.loss.class_weights), expected)
    assert len(set(expected.tolist())) > 1
    weighted.fit()
