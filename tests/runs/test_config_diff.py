"""Resuming a run with other options than it was started with."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from accelerate.state import AcceleratorState

from anynet_dist.config import Config, dump_config, load_config
from anynet_dist.config.schema import DataConfig, ModelConfig, RunConfig
from anynet_dist.config.yaml_reader import read_config
from anynet_dist.runs.checkpoint import Checkpoint
from anynet_dist.runs.config_diff import check_changes
from anynet_dist.runs.manifest import write_manifest
from anynet_dist.runs.progress import Progress, RunContext, read_context
from anynet_dist.system.errors import UserError
from anynet_dist.training.trainer import Trainer
from tests.training.conftest import log_without_times

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def trainer(config: Path, *overrides: str) -> Trainer:
    return Trainer(load_config(config, overrides).config)


@pytest.fixture
def resumable(blobs_config: Path) -> Path:
    """The config of a run that has done two epochs."""
    trainer(blobs_config).fit()
    return blobs_config


def test_changes_that_change_the_result_are_named_and_refused(resumable: Path) -> None:
    changed = ("--optim.lr", "0.1", "--data.augment.no-flip", "--model.num_channels", "8", "8", "24")
    with pytest.raises(UserError) as caught:
        trainer(resumable, *changed, "--resume", "auto")
    message = str(caught.value).splitlines()
    assert message[0].endswith("belongs to a run with other options, which change its result:")
    assert message[1:4] == [
        "  model.num_channels: [8, 8, 16] -> [8, 8, 24]",
        "  data.augment.flip: true -> false",
        "  optim.lr: 0.05 -> 0.1",
    ]
    assert "--allow-config-change" in message[4]


def test_they_are_allowed_on_request_and_logged(resumable: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "anynet_dist")
    options = ("--optim.lr", "0.1", "--train.epochs", "3", "--resume", "auto")
    trainer(resumable, *options, "--allow-config-change").fit()
    told = {(record.levelname, record.getMessage()) for record in caplog.records}
    assert ("WARNING", "changed since then: optim.lr: 0.05 -> 0.1") in told
    assert ("INFO", "changed since then: train.epochs: 2 -> 3") in told


def test_a_checkpoint_of_another_network_is_told_as_such(resumable: Path) -> None:
    options = ("--model.num_channels", "8", "8", "24", "--resume", "auto", "--allow-config-change")
    with pytest.raises(UserError, match=r"does not fit this network: .*stage2"):
        trainer(resumable, *options)


def test_harmless_changes_go_on(resumable: Path, tmp_path: Path) -> None:
    options = ("--checkpoint.every", "1 step", "--train.log_every", "2", "--eval.batch_size", "7")
    trainer(resumable, *options, "--train.epochs", "3", "--resume", "auto").fit()
    steps = [record["step"] for record in log_without_times(tmp_path / "run") if "train/loss" in record]
    assert steps == [1, 2, 3, 4, 5, 6, 8, 9]


def test_the_same_images_may_lie_elsewhere_but_not_other_ones(
    resumable: Path, blobs: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(blobs / "train", tmp_path / "node" / "train"))
    options = ("--data.train", str(moved), "--train.epochs", "3", "--resume", "auto")
    trainer(resumable, *options).fit()
    (moved / "class2" / "002.png").rename(moved / "class1" / "002.png")
    with pytest.raises(UserError, match=r"the classes and labels of data\.train: \w+ -> \w+"):
        trainer(resumable, *options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ("cosine", "continues at 0.025, where it would have been 0"),
        ("constant", "continues at 0.05, where it would have been 0.05"),
    ],
)
def test_more_epochs_say_what_becomes_of_the_learning_rate(
    blobs_config: Path, caplog: pytest.LogCaptureFixture, schedule: str, told: str
) -> None:
    caplog.set_level("INFO", "anynet_dist")
    options = ("--schedule.name", schedule)
    trainer(blobs_config, *options).fit()
    trainer(blobs_config, *options, "--train.epochs", "4", "--resume", "auto").fit()
    assert f"is now to end at step 12 instead of 6: the learning rate {told}" in caplog.text


def test_a_resumed_run_keeps_the_choices_made_for_it(
    blobs_config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "anynet_dist")
    automatic = ("--train.memory_format", "auto", "--train.precision", "auto")
    trainer(blobs_config, *automatic, "--train.epochs", "1").fit()
    folder = tmp_path / "run" / "checkpoints" / "last"
    before = read_context(folder)
    other = "fp32" if before.precision == "bf16" else "bf16"
    facts = (folder / "context.json").read_text().replace(before.precision, other)
    (folder / "context.json").write_text(facts)
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    AcceleratorState._reset_state(reset_partial_state=True)
    resumed = trainer(blobs_config, *automatic, "--train.epochs", "2", "--resume", "auto")
    assert resumed.state.context.precision == other
    resumed.fit()
    for label, value in (("precision", other), ("memory format", before.memory_format)):
        assert re.search(rf"{label} +{value}: as the run was started with", caplog.text)


def test_credentials_are_no_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are not in the checkpoint; in those of earlier versions they are."""
    caplog.set_level("INFO", "anynet_dist")
    facts = RunContext(
        world_size=1, device_batch=1, precision="fp32", memory_format="contiguous", total_steps=1
    )
    source, elsewhere = "https://u:pw@h/x", "https://u:pw@h/y"
    config = Config(model=ModelConfig(pretrained=source), data=DataConfig(train=source))
    saved = dump_config(config)
    for text in (saved, saved.replace("https://***@h/x", source)):
        (tmp_path / "run_config.yaml").write_text(text)
        options = {
            key: setting.value for key, setting in read_config(tmp_path / "run_config.yaml", []).items()
        }
        checkpoint = Checkpoint(path=tmp_path, progress=Progress(), context=facts, options=options)
        check_changes(checkpoint, config, facts)
    assert not caplog.messages
    other = replace(config, model=ModelConfig(pretrained=elsewhere))
    with pytest.raises(UserError, match=r"pretrained: https://\*\*\*@h/x -> https://\*\*\*@h/y"):
        check_changes(checkpoint, other, facts)
    check_changes(checkpoint, replace(other, run=RunConfig(allow_config_change=True)), facts)
    assert "https://***@h/y" in caplog.text
    assert "pw" not in caplog.text


def test_options_of_an_optimizer_are_kept_and_compared(blobs_config: Path, tmp_path: Path) -> None:
    options = ("--optim.name", "torch:RAdam", "--optim.options", "{eps: 0.001, betas: [0.9, 0.99]}")
    trainer(blobs_config, *options).fit()
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["optim"]["options"] == {"eps": 0.001, "betas": [0.9, 0.99]}
    resume = ("--train.epochs", "3", "--resume", "auto")
    trainer(blobs_config, *options, *resume).fit()
    with pytest.raises(UserError, match=r"\n  optim\.options\.eps: 0\.001 -> 0\.01\n  optim\.options\.betas"):
        trainer(blobs_config, *options[:2], "--optim.options.eps", "0.01", *resume)


def test_a_run_of_a_version_without_an_option_did_what_its_default_does(resumable: Path) -> None:
    for checkpoint in (resumable.parent / "run" / "checkpoints").glob("step_*"):
        file = checkpoint / "run_config.yaml"
        lines = file.read_text().splitlines(keepends=True)
        later = ("loss: cross_entropy", "loss_options: {}", "options: {}")
        older = [line for line in lines if line.strip() not in later]
        assert len(older) == len(lines) - 4
        file.write_text("".join(older))
        (checkpoint / "manifest.json").unlink()
        write_manifest(checkpoint)
    trainer(resumable, "--train.epochs", "3", "--resume", "auto").fit()
    with pytest.raises(UserError, match=r"train\.loss: cross_entropy -> bce"):
        trainer(resumable, "--train.loss", "bce", "--train.epochs", "4", "--resume", "auto")
