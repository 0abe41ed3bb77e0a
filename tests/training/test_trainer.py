"""A whole run in this process, on images the tests make."""

import json
import math
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import pytest
import torch

from anynet_dist import load_model
from anynet_dist.config import load_config
from anynet_dist.runs.manifest import write_manifest
from anynet_dist.runs.metrics_log import Record, read_records
from anynet_dist.runs.progress import read_progress
from anynet_dist.system.errors import UserError
from anynet_dist.training.evaluate_run import evaluate_run
from anynet_dist.training.trainer import Trainer
from tests.conftest import Launch

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


# Its logits are only finite in training.
OVERFLOWING_HEAD = """
from anynet_dist.models.heads import LinearHead
from anynet_dist.models.registry import register_head

@register_head("overflowing")
class OverflowingHead(LinearHead):
    def forward(self, x):
        logits = super().forward(x)
        return logits if self.training else logits * float("inf")
"""


def fit(config: Path, *overrides: str) -> Record:
    return Trainer(load_config(config, overrides).config).fit()


def training_batches(config: Path, *overrides: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The images and the targets of all training steps of a run."""
    trainer = Trainer(load_config(config, overrides).config)
    images, targets = list[torch.Tensor](), list[torch.Tensor]()
    trainer.network.register_forward_pre_hook(
        lambda network, given: images.append(given[0].clone()) if network.training else None
    )
    loss = trainer.task.loss

    def noted_loss(outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        targets.append(wanted.clone())
        return loss(outputs, wanted)

    trainer.task.loss = noted_loss  # type: ignore[method-assign, assignment]
    trainer.fit()
    return torch.cat(images), torch.cat(targets)


def weights(file: Path) -> dict[str, torch.Tensor]:
    return load_model(file).state_dict()


def test_a_run_learns_and_leaves_everything_in_its_folder(blobs_config: Path, tmp_path: Path) -> None:
    result = fit(blobs_config, "--train.epochs", "6")
    run = tmp_path / "run"
    assert result["test/top1"] > 0.9
    names = {"config.yaml", "network.json", "environment.json", "metrics.jsonl", "console.log", "status.json"}
    assert names | {".anynet_run.json", "model.safetensors", "checkpoints"} == {
        path.name for path in run.iterdir()
    }
    records = read_records(run / "metrics.jsonl")
    train = [record for record in records if "train/loss" in record]
    assert [record["step"] for record in train] == list(range(1, 19))
    assert [record["epoch"] for record in records if "val/top1" in record] == [1, 2, 3, 4, 5, 6]
    assert records[-1]["test/top1"] == result["test/top1"]
    environment = json.loads((run / "environment.json").read_text())
    assert environment["world_size"] == 1
    assert environment["precision"] == "fp32"


def test_the_saved_config_starts_the_same_run_again(blobs_config: Path, tmp_path: Path) -> None:
    fit(blobs_config)
    fit(tmp_path / "run" / "config.yaml", "--run.dir", str(tmp_path / "again"))
    first, again = (weights(tmp_path / name) for name in ("run", "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_eval_gives_the_accuracy_that_the_run_reported(blobs_config: Path, tmp_path: Path) -> None:
    result = fit(blobs_config, "--ema.decay", "0.9")
    scores = evaluate_run(str(tmp_path / "run"), "test")
    assert scores.count == 37
    assert scores.record("")["top1"] == result["test/ema_top1"]
    assert scores.loss == pytest.approx(result["test/ema_loss"], rel=1e-5)
    best = str(tmp_path / "run" / "checkpoints" / "best")
    assert evaluate_run(best, "test", weights="raw").record("")["top1"] == result["test/top1"]
    assert evaluate_run(best, "val").count == 24


@pytest.mark.slow
def test_going_on_from_the_last_checkpoint_ends_where_an_uninterrupted_run_does(
    blobs_config: Path, tmp_path: Path
) -> None:
    options: tuple[str, ...] = ("--train.epochs", "4", "--ema.decay", "0.9")
    options += ("--data.augment.mixup", "0.2", "--data.augment.cutmix", "1", "--train.max_device_batch", "12")
    fit(blobs_config, *options, "--schedule.name", "constant", "--run.dir", str(tmp_path / "whole"))
    fit(blobs_config, *options, "--schedule.name", "constant", "--train.epochs", "2")
    fit(blobs_config, *options, "--schedule.name", "constant", "--resume", "auto")
    for name in ("model.safetensors", "ema.safetensors"):
        last = Path("checkpoints") / "last" / name
        whole, resumed = (weights(tmp_path / run / last) for run in ("whole", "run"))
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    whole_log, resumed_log = (read_records(tmp_path / run / "metrics.jsonl") for run in ("whole", "run"))
    steps = [record["step"] for record in resumed_log if "train/loss" in record]
    assert steps == [record["step"] for record in whole_log if "train/loss" in record]


def test_a_run_that_has_ended_is_not_run_again_by_resuming_it(blobs_config: Path, tmp_path: Path) -> None:
    first = fit(blobs_config)
    before = weights(tmp_path / "run")
    assert fit(blobs_config, "--resume", "auto")["test/top1"] == first["test/top1"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(tmp_path / "run").items())


def test_a_finished_run_is_not_overwritten_unless_told(blobs_config: Path, tmp_path: Path) -> None:
    fit(blobs_config)
    with pytest.raises(UserError, match=r"already holds a finished run: .*--resume auto.*--run\.overwrite"):
        fit(blobs_config)
    fit(blobs_config, "--run.overwrite", "true", "--train.epochs", "1")
    assert read_progress(tmp_path / "run" / "checkpoints" / "last").epoch == 1


def test_a_run_is_not_removed_for_one_that_cannot_start(blobs_config: Path, tmp_path: Path) -> None:
    fit(blobs_config, "--train.epochs", "1")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    for impossible in (("--train.global_batch", "96"), ("--model.freeze", "stage9")):
        with pytest.raises(UserError):
            fit(blobs_config, "--run.overwrite", "true", *impossible)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_max_steps_ends_the_run_and_the_schedule(blobs_config: Path, tmp_path: Path) -> None:
    fit(blobs_config, "--train.max_steps", "4", "--schedule.name", "cosine")
    progress = read_progress(tmp_path / "run" / "checkpoints" / "last")
    assert (progress.step, progress.epoch, progress.step_in_epoch) == (4, 1, 1)
    train = [r for r in read_records(tmp_path / "run" / "metrics.jsonl") if "train/loss" in r]
    half_period = [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert [r["lr"] for r in train] == pytest.approx([0.05 * share for share in half_period])


def test_only_the_newest_the_last_and_the_best_checkpoints_are_kept(
    blobs_config: Path, tmp_path: Path
) -> None:
    fit(blobs_config, "--train.epochs", "5", "--checkpoint.keep_last", "1")
    folder = tmp_path / "run" / "checkpoints"
    kept = {path.name for path in folder.glob("step_*")}
    assert kept == {(folder / "last").resolve().name, (folder / "best").resolve().name}
    assert not list(folder.glob(".*"))


def test_the_best_network_by_validation_is_the_one_tested_and_written(
    blobs_config: Path, tmp_path: Path
) -> None:
    result = fit(blobs_config, "--train.epochs", "4")
    records = [r for r in read_records(tmp_path / "run" / "metrics.jsonl") if "val/top1" in r]
    best = max(records, key=lambda record: record["val/top1"])
    assert result["epoch"] == best["epoch"]
    written, chosen = (weights(tmp_path / "run" / path) for path in ("model.safetensors", "checkpoints/best"))
    assert all(torch.equal(written[name], chosen[name]) for name in written)


def test_a_loss_that_is_not_finite_ends_the_run_with_advice(blobs_config: Path) -> None:
    with pytest.raises(UserError, match=r"were not finite, from step \d+ .*lower optim\.lr"):
        fit(blobs_config, "--optim.lr", "1e20")


def test_an_impossible_network_is_refused_before_data_is_looked_for(blobs_config: Path) -> None:
    with pytest.raises(UserError, match="group_width"):
        fit(blobs_config, "--model.group_width", "3", "--data.train", "/nowhere")


def test_precise_batch_norm_replaces_the_running_statistics(blobs_config: Path, tmp_path: Path) -> None:
    fit(blobs_config, "--run.dir", str(tmp_path / "running"))
    fit(blobs_config, "--eval.precise_bn", "72")
    running, precise = (weights(tmp_path / run / "checkpoints" / "last") for run in ("running", "run"))
    for name, tensor in running.items():
        changed = "running" in name or "num_batches" in name
        assert torch.equal(tensor, precise[name]) != changed, name


@pytest.mark.slow
def test_scores_with_test_time_flip_stand_beside_the_plain_ones(blobs_config: Path, tmp_path: Path) -> None:
    plain = fit(blobs_config, "--run.dir", str(tmp_path / "plain"))
    with_flip = fit(blobs_config, "--eval.flip", "true", "--ema.decay", "0.9")
    assert with_flip["test/top1"] == plain["test/top1"]
    assert with_flip["test/flip_loss"] != with_flip["test/loss"]
    assert {"test/ema_top1", "test/ema_flip_top1"} <= with_flip.keys()


def test_mixed_images_train_towards_shares_of_classes(blobs_config: Path, tmp_path: Path) -> None:
    plain, labels = training_batches(blobs_config, "--run.dir", str(tmp_path / "plain"))
    images, shares = training_batches(blobs_config, "--data.augment.mixup", "1")
    assert labels.shape == (2 * 72,)
    assert shares.shape == (2 * 72, 3)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(2 * 72))
    mixed = (shares > 0).sum(dim=1) == 2
    assert mixed.float().mean() > 0.4, "two images of three are blended with one of another class"
    assert not torch.equal(images, plain)
    own = shares.gather(1, labels[:, None])[:, 0]
    assert (own > 0).all(), "the image's own class keeps a share"


def test_a_block_of_the_users_own_trains_and_loads_again(blobs_config: Path, tmp_path: Path) -> None:
    (tmp_path / "my_blocks.py").write_text(
        "from torch import nn\n"
        "from anynet_dist import register_block\n"
        "@register_block('mine')\n"
        "class Mine(nn.Sequential):\n"
        "    def __init__(self, width_in, width_out, stride):\n"
        "        super().__init__(nn.Conv2d(width_in, width_out, 3, stride, 1), nn.ReLU())\n"
    )
    fit(blobs_config, "--plugins", str(tmp_path / "my_blocks.py"), "--model.block_type", "mine")
    network = load_model(tmp_path / "run")
    assert type(network.get_submodule("stage1.0")).__name__ == "Mine"
    fit(tmp_path / "run" / "config.yaml", "--resume", "auto", "--train.epochs", "3")


class MakesAFolder:
    """Makes a folder where it is unpickled as any object may be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("name", ["optimizer.bin", "batch_norm_0.pt"])
def test_what_is_pickled_in_a_checkpoint_is_not_run(blobs_config: Path, tmp_path: Path, name: str) -> None:
    fit(blobs_config)
    checkpoint = (tmp_path / "run" / "checkpoints" / "last").resolve()
    torch.save(MakesAFolder(tmp_path / "made"), checkpoint / name)
    (checkpoint / "manifest.json").unlink()
    write_manifest(checkpoint)
    with pytest.raises((UserError, UnpicklingError)):
        fit(blobs_config, "--resume", "auto", "--train.epochs", "3")
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_plug_ins_of_a_run_are_run_by_eval_only_when_allowed(
    blobs_config: Path, tmp_path: Path, launch: Launch
) -> None:
    plugin, mine = tmp_path / "blocks.py", tmp_path / "mine.py"
    plugin.write_text(
        "from pathlib import Path\n"
        "from anynet_dist.models.blocks import VGGBlock\n"
        "from anynet_dist.models.registry import register_block\n"
        "Path(__file__).with_suffix('.ran').touch()\n"
        "register_block('block_for_eval')(type('Mine', (VGGBlock,), {}))\n"
    )
    mine.write_text(plugin.read_text())
    launch("train", blobs_config, "--plugins", plugin, "--model.block_type", "block_for_eval")
    run = tmp_path / "run"
    kept = run / "plugins" / "blocks.py"
    for path in (run, run / "checkpoints" / "last"):
        refused = launch("eval", path, check=False)
        assert refused.returncode == 2
        assert f"asks to run Python code: {kept}; read it, then allow it with" in refused.stderr
        assert "Traceback" not in refused.stderr
    launch("eval", run, "--plugins", mine)
    assert not kept.with_suffix(".ran").exists()
    launch("eval", run, "--allow-plugins")
    assert kept.with_suffix(".ran").exists()


@pytest.mark.parametrize("option", [("--data.val_fraction", "0"), ("--eval.every", "2")])
def test_without_validation_in_each_epoch_the_last_network_is_tested(
    blobs_config: Path, tmp_path: Path, option: tuple[str, str]
) -> None:
    assert fit(blobs_config, *option)["epoch"] == 2
    evaluated = [r["epoch"] for r in read_records(tmp_path / "run" / "metrics.jsonl") if "val/top1" in r]
    assert evaluated == ([] if option[0] == "--data.val_fraction" else [2])


@pytest.mark.parametrize("loader", ["torch", "device"])
def test_images_grow_from_epoch_to_epoch_without_a_new_loader(
    blobs_config: Path, tmp_path: Path, loader: Literal["torch", "device"]
) -> None:
    options = ("--data.loader", loader, "--data.start_res", "8", "--data.res_ramp", "0", "2")
    trainer = Trainer(load_config(blobs_config, [*options, "--train.epochs", "3"]).config)
    sides = []
    trainer.network.register_forward_pre_hook(
        lambda network, images: sides.append(images[0].shape[-1]) if network.training else None
    )
    trainer.fit()
    assert sides == [8] * 3 + [12] * 3 + [16] * 3


@pytest.mark.parametrize(
    "option",
    [
        ("auto_augment", "trivialaugment"),
        ("random_erasing", "1"),
        ("color_jitter", "0.5", "0.5", "0.5", "0"),
    ],
    ids=lambda option: option[0],
)
def test_recipes_of_torchvision_reach_the_training_images(
    blobs_config: Path, tmp_path: Path, option: tuple[str, ...]
) -> None:
    name, *values = option
    plain, labels = training_batches(
        blobs_config, "--train.epochs", "1", "--run.dir", str(tmp_path / "plain")
    )
    changed, same = training_batches(blobs_config, "--train.epochs", "1", f"--data.augment.{name}", *values)
    assert torch.equal(labels, same)
    assert (changed != plain).flatten(1).any(dim=1).float().mean() > 0.5


def test_repeats_put_differently_changed_copies_side_by_side(blobs_config: Path) -> None:
    images, labels = training_batches(blobs_config, "--train.epochs", "1", "--data.augment.repeats", "2")
    assert torch.equal(labels[::2], labels[1::2])
    assert (images[::2] != images[1::2]).flatten(1).any(dim=1).float().mean() > 0.5


def test_the_log_says_how_many_images_were_counted_and_is_strict_json(
    blobs_config: Path, tmp_path: Path
) -> None:
    plugin = tmp_path / "overflow.py"
    plugin.write_text(OVERFLOWING_HEAD)
    head = ("--plugins", str(plugin), "--model.head", "overflowing")
    result = fit(blobs_config, *head)
    assert (result["test/count"], result["test/not_finite"]) == (37, 37)
    assert result["test/top1"] == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert records[-1]["test/loss"] is None
    assert [record["val/count"] for record in records if "val/top1" in record] == [24, 24]
