"""Nothing that is a user's is removed: not by a new run, and not by one that cannot go on."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from anynet_dist.config import load_config
from anynet_dist.config.errors import ConfigError
from anynet_dist.system.errors import StoppedEarly, UserError
from anynet_dist.training.trainer import Trainer
from tests.training.conftest import signal_in_step

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

SAVE_ALL = ("--checkpoint.every", "1 step", "--checkpoint.keep_last", "100")


def fit(config: Path, *overrides: str) -> Trainer:
    trainer = Trainer(load_config(config, overrides).config)
    trainer.fit()
    return trainer


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its content; links by where they lead."""
    return {
        str(path.relative_to(folder)): bytes(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def remove(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints)


def each(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Do something to every checkpoint."""

    def change_all(checkpoints: Path) -> None:
        for path in checkpoints.glob("step_*"):
            change(path)

    return change_all


def shorten(path: Path) -> None:
    os.truncate(path / "optimizer.bin", 10)


def flip_a_bit(path: Path) -> None:
    content = bytearray((path / "manifest.json").read_bytes())
    content[5] |= 0x80
    (path / "manifest.json").write_bytes(content)


def empty_progress(path: Path) -> None:
    (path / "progress.json").write_bytes(b"")


def from_the_future(path: Path) -> None:
    progress = json.loads((path / "progress.json").read_text())
    (path / "progress.json").write_text(json.dumps({**progress, "tomorrow": 1}))
    manifest = json.loads((path / "manifest.json").read_text())
    content = (path / "progress.json").read_bytes()
    facts = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / "manifest.json").write_text(json.dumps({**manifest, "progress.json": facts}))


def into_a_circle(checkpoints: Path) -> None:
    checkpoints.rename(checkpoints.with_name("elsewhere"))
    checkpoints.symlink_to(checkpoints)


UNUSABLE = {
    "removed to save space": (remove, "there is none"),
    "one file short": (each(lambda path: (path / "optimizer.bin").unlink()), "optimizer.bin is missing"),
    "cut": (each(shorten), "optimizer.bin has 10 bytes instead of"),
    "a bit of the manifest flipped": (each(flip_a_bit), "manifest.json is damaged"),
    "empty progress": (each(empty_progress), "progress.json has 0 bytes"),
    "of a newer version": (each(from_the_future), "newer version of anynet_dist: it has 'tomorrow'"),
    "renamed": (
        each(lambda path: path.rename(path.with_name(f"my_{path.name}"))),
        "a whole checkpoint under another name",
    ),
    "a folder that cannot be read": (into_a_circle, "it cannot be read"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("fault", UNUSABLE)
def test_a_run_without_a_usable_checkpoint_is_refused_and_left_as_it_is(
    blobs_config: Path, tmp_path: Path, fault: str, finished: bool
) -> None:
    if finished:
        fit(blobs_config)
    else:
        stopped = Trainer(load_config(blobs_config, SAVE_ALL).config)
        signal_in_step(stopped, 4)
        with pytest.raises(StoppedEarly):
            stopped.fit()
    change, reason = UNUSABLE[fault]
    change(tmp_path / "run" / "checkpoints")
    before = snapshot(tmp_path / "run")
    with pytest.raises(UserError, match="Nothing was changed") as refusal:
        fit(blobs_config, "--resume", "auto")
    assert reason in str(refusal.value)
    assert "metrics.jsonl" in str(refusal.value)
    assert snapshot(tmp_path / "run") == before
    with pytest.raises(UserError, match="already holds"):
        fit(blobs_config)
    assert snapshot(tmp_path / "run") == before


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(
    blobs_config: Path, tmp_path: Path
) -> None:
    killed = Trainer(load_config(blobs_config, ["--resume", "auto"]).config)
    killed.log.write({"step": 1, "epoch": 1})
    killed.close()
    fit(blobs_config, "--resume", "auto")
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_overwriting_removes_the_run_and_nothing_else(blobs_config: Path, tmp_path: Path) -> None:
    fit(blobs_config)
    run = tmp_path / "run"
    for name in ("notes.txt", "checkpoints/mine/model.safetensors", "slurm/1.out", "export/model.onnx"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("mine")
    fit(blobs_config, "--run.overwrite", "true", "--train.epochs", "1")
    assert (run / "notes.txt").read_text() == "mine"
    assert (run / "checkpoints" / "mine" / "model.safetensors").read_text() == "mine"
    assert (run / "slurm" / "1.out").exists()
    assert (run / "export" / "model.onnx").exists()
    assert sorted(path.name for path in (run / "checkpoints").glob("step_*")) == ["step_00000003"]


@pytest.mark.parametrize("overwrite", [(), ("--run.overwrite", "true"), ("--resume", "auto")])
@pytest.mark.parametrize("name", ["config.yaml", "checkpoints/mine.txt", "wandb/secrets", "metrics.jsonl"])
def test_a_folder_that_is_not_a_runs_keeps_what_it_holds(
    blobs_config: Path, tmp_path: Path, name: str, overwrite: tuple[str, ...]
) -> None:
    file = tmp_path / "run" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(UserError, match=f"is not the folder of a run, and {name.partition('/')[0]} in it"):
        fit(blobs_config, *overwrite)
    assert snapshot(tmp_path / "run") == {name: b"mine"}


def test_a_run_may_lie_beside_other_files(blobs_config: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "slurm").mkdir(parents=True)
    (tmp_path / "run" / "README").write_text("mine")
    fit(blobs_config)
    assert (tmp_path / "run" / "README").read_text() == "mine"


def test_a_run_folder_that_is_a_file_is_refused(blobs_config: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UserError, match="run is not a folder"):
        fit(blobs_config)
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/tmp", "", "   ", "a\nb"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    config = tmp_path / "named.yaml"
    config.write_text(yaml.safe_dump({"run": {"name": name}}))
    with pytest.raises(ConfigError, match=r"named\.yaml:2: run\.name: must be a plain name"):
        load_config(config)


def test_a_run_folder_of_a_version_without_the_mark_goes_on(blobs_config: Path, tmp_path: Path) -> None:
    fit(blobs_config, "--train.epochs", "1")
    (tmp_path / "run" / ".anynet_run.json").unlink()
    assert fit(blobs_config, "--resume", "auto").progress.step == 6
    assert (tmp_path / "run" / ".anynet_run.json").exists()


def test_a_second_trainer_does_not_write_into_the_first_ones_log(
    blobs_config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "anynet_dist")
    fit(blobs_config, "--train.epochs", "1")
    log = (tmp_path / "run" / "console.log").read_text()
    fit(blobs_config, "--train.epochs", "1", "--run.dir", str(tmp_path / "other"))
    assert (tmp_path / "run" / "console.log").read_text() == log
    assert "trained network" in log
