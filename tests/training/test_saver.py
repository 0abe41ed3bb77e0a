"""Checkpoints that are written beside the next steps."""

import json
import logging
import resource
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from anynet_dist import register_hook
from anynet_dist.config import load_config
from anynet_dist.runs.checkpoint import find_damage
from anynet_dist.runs.progress import read_progress
from anynet_dist.system.errors import RunError, StoppedEarly
from anynet_dist.training.checkpointing import Snapshot
from anynet_dist.training.saver import Stage, saves_in_background
from anynet_dist.training.trainer import Trainer
from tests.conftest import PATIENCE, Launch
from tests.training.conftest import assert_same_run, signal_in_step

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

SAVE_ALL = ("--checkpoint.every", "1 step", "--checkpoint.keep_last", "100")
EVERYTHING = ("--ema.decay", "0.9", "--model.dropout", "0.2", "--optim.name", "adamw", "--optim.lr", "0.01")


def trainer(config: Path, *overrides: object, hooks: Any = ()) -> Trainer:
    return Trainer(load_config(config, list(map(str, overrides))).config, hooks=hooks)


class SlowDisk:
    """Takes no file of a checkpoint from `hold` until `release`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.moves = threading.Event()
        self.moves.set()
        self.reached = threading.Event()
        write = Snapshot.write

        def write_slowly(snapshot: Snapshot, folder: Path) -> None:
            self.reached.set()
            assert self.moves.wait(PATIENCE)
            write(snapshot, folder)

        monkeypatch.setattr(Snapshot, "write", write_slowly)

    def hold(self, run: Trainer) -> None:
        """From the next checkpoint on."""
        run.saver.finish()
        self.moves.clear()
        self.reached.clear()

    def release(self) -> None:
        """Take what waits, and all that comes."""
        assert self.reached.wait(PATIENCE)
        self.moves.set()


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    return SlowDisk(monkeypatch)


def published(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in (run / "checkpoints").glob("step_*"))


def test_files_are_those_of_a_save_that_steps_wait_for_although_steps_go_on(
    blobs_config: Path, tmp_path: Path, slow_disk: SlowDisk
) -> None:
    @register_hook(every=1)
    def hold_until_the_fourth_step(run: Any) -> None:
        if run.progress.step == 2:  # which is saved next
            slow_disk.hold(run)
        if run.progress.step == 4:
            slow_disk.release()

    saving = ("--checkpoint.every", "2 steps", "--checkpoint.keep_last", "9", "--eval.every", "9")
    options = (*EVERYTHING, *saving, "--train.global_batch", "12", "--train.log_every", "100")
    folders = {}
    for name, hooks in {"false": (), "true": (hold_until_the_fourth_step,)}.items():
        run = tmp_path / name
        where = ("--run.dir", run, "--checkpoint.in_background", name)
        trainer(blobs_config, *options, *where, hooks=hooks).fit()
        folders[name] = run / "checkpoints"
    assert published(tmp_path / "true") == [2, 4, 6, 8, 10, 12]
    files = {path.name for path in (folders["false"] / "step_00000002").iterdir()}
    # The log that progress.json speaks of holds times.
    for file in files - {"manifest.json", "progress.json", "run_config.yaml"}:
        for step in ("step_00000002", "step_00000012"):
            one, other = (folder / step / file for folder in folders.values())
            assert one.read_bytes() == other.read_bytes()
    assert {"model.safetensors", "ema.safetensors", "optimizer.bin", "random_states_0.pkl"} <= files


def test_one_that_is_not_published_does_not_count_and_a_kill_leaves_those_before(
    blobs_config: Path, tmp_path: Path, slow_disk: SlowDisk
) -> None:
    run, killed = tmp_path / "run", tmp_path / "killed"

    @register_hook(every=1)
    def copy_what_a_kill_would_leave(trained: Any) -> None:
        if trained.progress.step == 4:
            slow_disk.hold(trained)
        if trained.progress.step == 5:
            assert slow_disk.reached.wait(PATIENCE)
            assert list((run / "checkpoints").glob(".step_00000004.*.partial"))
            assert published(run) == [1, 2, 3]
            shutil.copytree(run, killed, symlinks=True)
            slow_disk.release()

    trainer(blobs_config, *SAVE_ALL, *EVERYTHING, hooks=[copy_what_a_kill_would_leave]).fit()
    assert published(run) == [1, 2, 3, 4, 5, 6]
    (killed / "run.lock").unlink(missing_ok=True)
    again = trainer(blobs_config, *SAVE_ALL, *EVERYTHING, "--run.dir", killed, "--resume", "auto")
    assert again.progress.step == 3
    again.fit()
    assert not list((killed / "checkpoints").glob(".*"))
    assert_same_run(run, killed)


def test_the_next_one_waits_for_it_and_says_so_once(
    blobs_config: Path, tmp_path: Path, slow_disk: SlowDisk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "anynet_dist")

    @register_hook(every=1)
    def let_it_wait(run: Any) -> None:
        if run.progress.step in (1, 3):
            slow_disk.hold(run)
        if run.progress.step in (2, 4):
            threading.Timer(0.1, slow_disk.release).start()

    trainer(blobs_config, *SAVE_ALL, hooks=[let_it_wait]).fit()
    log = caplog.text
    waited = "the checkpoint of step 1 was not yet written when the next was due: training waited"
    assert log.count("not yet written when the next was due") == log.count(waited) == 1
    assert all(find_damage(path) is None for path in (tmp_path / "run" / "checkpoints").glob("step_*"))
    assert published(tmp_path / "run") == [1, 2, 3, 4, 5, 6]


def test_a_run_that_is_asked_to_stop_ends_when_all_is_published(
    blobs_config: Path, tmp_path: Path, slow_disk: SlowDisk
) -> None:
    @register_hook(every=1)
    def hold_for_a_while(run: Any) -> None:
        if run.progress.step == 4:
            slow_disk.hold(run)
            threading.Timer(0.2, slow_disk.release).start()

    run = trainer(blobs_config, *SAVE_ALL, hooks=[hold_for_a_while])
    signal_in_step(run, 5)
    with pytest.raises(StoppedEarly):
        run.fit()
    assert published(tmp_path / "run") == [1, 2, 3, 4, 5]
    assert read_progress(tmp_path / "run" / "checkpoints" / "last").step == 5


def test_hooks_of_evaluations_find_the_network_saved_and_best_is_the_best(
    blobs_config: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []

    @register_hook(every="evaluation")
    def look(run: Any) -> None:
        best = read_progress(run.folder.checkpoints / "best")
        assert best.score == run.progress.best
        seen.append((run.progress.step, read_progress(run.folder.checkpoints / "last").step))

    trainer(blobs_config, *SAVE_ALL, hooks=[look]).fit()
    assert seen == [(3, 3), (6, 6)]


@contextmanager
def full_disk() -> Iterator[Any]:
    """A hook that makes writes of more than so many bytes fail from step 4 on, as those to a full disk do."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    @register_hook(every=1)
    def fill(run: Any) -> None:
        if run.progress.step == 4:
            run.saver.finish()
            resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limits[1]))

    try:
        yield fill
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_a_disk_that_is_full_ends_the_run_soon_and_the_earlier_ones_stay(
    blobs_config: Path, tmp_path: Path
) -> None:
    with full_disk() as fill:
        run = trainer(blobs_config, *SAVE_ALL, "--train.epochs", "50", hooks=[fill])
        with pytest.raises(RunError, match=r"cannot write the checkpoint of step 4 in .* \(.* MiB are free"):
            run.fit()
    assert run.progress.step <= 6
    assert published(tmp_path / "run") == [1, 2, 3]
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"


def test_a_write_that_failed_ends_the_run_although_no_other_one_is_due(blobs_config: Path) -> None:
    @register_hook(every=1)
    def save_and_see_it_fail(run: Any) -> None:
        if run.progress.step == 4:
            run.save()
        while run.progress.step > 4 and run.saver.stage() == Stage.BUSY:
            time.sleep(0.01)

    options = ("--checkpoint.every", "9 epochs", "--train.global_batch", "3", "--train.log_every", "999")
    with full_disk() as fill:
        run = trainer(blobs_config, *options, hooks=[fill, save_and_see_it_fail])
        with pytest.raises(RunError, match="cannot write the checkpoint of step 4 "):
            run.fit()
    assert run.progress.step < run.plan.steps_per_epoch


FULL_ON_ONE_RANK = """
import resource, signal
from anynet_dist import register_hook

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

@register_hook(every=1)
def fill(trainer):
    if trainer.progress.step == 4:
        trainer.saver.finish()
        if trainer.accelerator.process_index == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
"""


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("on_error", ["stop", "continue"])
def test_a_disk_that_is_full_for_one_rank_is_an_error_on_all(
    blobs_config: Path, tmp_path: Path, launch: Launch, on_error: str
) -> None:
    plugin = tmp_path / "fill.py"
    plugin.write_text(FULL_ON_ONE_RANK)
    options = (*SAVE_ALL, "--checkpoint.on_error", on_error, "--plugins", plugin)
    result = launch("train", blobs_config, *options, processes=2, check=False)
    said = result.stdout + result.stderr
    assert published(tmp_path / "run") == [1, 2, 3]
    assert "cannot write the checkpoint of step 4 in " in said
    assert "Traceback" not in said
    if on_error == "stop":
        assert result.returncode == 1
    else:
        assert result.returncode == 0
        assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_ranks_that_save_in_the_background_save_what_they_save_otherwise(
    blobs_config: Path, tmp_path: Path, launch: Launch
) -> None:
    for name in ("true", "false"):
        options = (*SAVE_ALL, *EVERYTHING, "--run.dir", tmp_path / name)
        launch("train", blobs_config, *options, "--checkpoint.in_background", name, processes=2)
    assert published(tmp_path / "true") == [1, 2, 3, 4, 5, 6]
    for step in ("step_00000002", "step_00000006"):
        one, other = (tmp_path / name / "checkpoints" / step for name in ("true", "false"))
        for file in ("model.safetensors", "optimizer.bin", "batch_norm_1.pt", "random_states_1.pkl"):
            assert (one / file).read_bytes() == (other / file).read_bytes()


@pytest.mark.parametrize(
    ("options", "engine", "expected"),
    [
        ((), "DDP", (True, "")),
        (("--checkpoint.in_background", "false"), "DDP", (False, "as configured")),
        ((), "FSDP2", (False, "all ranks have to be at it, for FSDP2 spreads its state over them")),
    ],
)
def test_steps_wait_where_they_have_to_and_the_run_says_why(
    blobs_config: Path, options: tuple[str, ...], engine: str, expected: tuple[bool, str]
) -> None:
    assert saves_in_background(load_config(blobs_config, options).config, engine) == expected
