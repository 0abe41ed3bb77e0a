"""Checkpoint folders: whole or not there, checked before they are used, kept by rule."""

import json
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from anynet_dist.config import load_config
from anynet_dist.runs.checkpoint import find_damage
from anynet_dist.runs.manifest import write_manifest
from anynet_dist.runs.metrics_log import read_records
from anynet_dist.runs.progress import read_progress
from anynet_dist.system.errors import RunError, UserError
from anynet_dist.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

SAVE_ALL = ("--checkpoint.every", "1 step", "--checkpoint.keep_last", "100")


def fit(config: Path, *overrides: str) -> None:
    Trainer(load_config(config, overrides).config).fit()


def steps(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in (run / "checkpoints").glob("step_*"))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Make writes beyond this many bytes fail, as those to a full disk do."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (("--checkpoint.every", "2 steps", "--checkpoint.keep_last", "1"), [6]),
        (("--checkpoint.every", "2", "--checkpoint.keep_last", "9"), [6]),
        (("--checkpoint.every", "1 step", "--checkpoint.keep_last", "2"), [5, 6]),
        ((*SAVE_ALL[:2], "--checkpoint.keep_last", "1", "--checkpoint.keep_every", "2"), [2, 4, 6]),
        (("--checkpoint.every", "60 minutes", "--checkpoint.keep_last", "9"), [6]),
    ],
)  # fmt: skip
def test_checkpoints_are_taken_and_kept_by_rule(
    blobs_config: Path, tmp_path: Path, rule: tuple[str, ...], kept: list[int]
) -> None:
    fit(blobs_config, *rule, "--data.val_fraction", "0", "--train.max_steps", "6")
    assert steps(tmp_path / "run") == kept


def test_the_best_few_are_kept_beside_the_newest(blobs_config: Path, tmp_path: Path) -> None:
    options = ("--train.epochs", "5", "--checkpoint.keep_last", "1", "--checkpoint.keep_best", "2")
    fit(blobs_config, *options)
    records = [r for r in read_records(tmp_path / "run" / "metrics.jsonl") if "val/top1" in r]
    best = sorted(records, key=lambda record: (-record["val/top1"], record["step"]))[:2]
    assert set(steps(tmp_path / "run")) == {15} | {record["step"] for record in best}


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", ["missing", "cut", "changed", "no manifest", "no progress", "empty manifest"]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    blobs_config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: str
) -> None:
    fit(blobs_config, *SAVE_ALL)
    newest = (tmp_path / "run" / "checkpoints" / "last").resolve()
    file = newest / "optimizer.bin"
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        os.truncate(file, file.stat().st_size - 1)
    elif damage == "changed":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "empty manifest":
        (newest / "manifest.json").write_text("")
    else:
        (newest / f"{damage.removeprefix('no ')}.json").unlink()
    trainer = Trainer(load_config(blobs_config, [*SAVE_ALL, "--resume", "auto"]).config)
    assert trainer.progress.step == 5
    assert f"checkpoint {newest} is damaged" in (tmp_path / "run" / "console.log").read_text()
    trainer.fit()
    assert find_damage(newest) is None
    assert steps(tmp_path / "run") == [1, 2, 3, 4, 5, 6]


def test_a_damaged_checkpoint_that_was_asked_for_is_refused(blobs_config: Path, tmp_path: Path) -> None:
    fit(blobs_config)
    last = tmp_path / "run" / "checkpoints" / "last"
    (last / "optimizer.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"last is damaged: optimizer\.bin has 0 bytes instead of \d+"):
        fit(blobs_config, "--resume", str(last))
    elsewhere = ("--run.dir", str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match=r"is not a checkpoint: it has no progress\.json"):
        fit(blobs_config, "--resume", str(tmp_path), *elsewhere)


@pytest.mark.slow
def test_what_a_kill_left_half_written_is_no_checkpoint_and_goes_away(
    blobs_config: Path, tmp_path: Path
) -> None:
    fit(blobs_config, *SAVE_ALL)
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(folder / "step_00000006", folder / ".step_00000007.partial")
    shutil.rmtree(folder / "step_00000006")
    trainer = Trainer(load_config(blobs_config, ["--resume", "auto"]).config)
    assert trainer.progress.step == 5
    trainer.fit()
    assert not list(folder.glob(".*"))


@pytest.mark.slow
def test_going_on_from_an_earlier_checkpoint_sets_the_later_ones_aside(
    blobs_config: Path, tmp_path: Path
) -> None:
    fit(blobs_config, *SAVE_ALL)
    folder = tmp_path / "run" / "checkpoints"
    fit(blobs_config, *SAVE_ALL, "--resume", str(folder / "step_00000004"))
    assert steps(tmp_path / "run") == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in folder.glob("replaced_*")) == [
        "replaced_step_00000005",
        "replaced_step_00000006",
    ]


def full_disk_after(config: Path, step: int, *overrides: str) -> Trainer:
    """A run whose files can hold no more than a kilobyte once it has taken a step."""
    trainer = Trainer(load_config(config, [*SAVE_ALL, *overrides]).config)
    save = trainer.save

    def save_on_full_disk(required: bool = False) -> None:
        if trainer.progress.step < step:
            save(required)
        else:
            with largest_file(1000):
                save(required)
                trainer.saver.finish()

    trainer.save = save_on_full_disk  # type: ignore[method-assign]
    return trainer


def test_a_full_disk_ends_the_run_clearly_and_the_earlier_checkpoints_stay_good(
    blobs_config: Path, tmp_path: Path
) -> None:
    trainer = full_disk_after(blobs_config, 4)
    with pytest.raises(
        RunError, match=r"cannot write the checkpoint of step 4 in .* \(.* MiB are free on its disk\)"
    ):
        trainer.fit()
    assert steps(tmp_path / "run") == [1, 2, 3]
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))
    fit(blobs_config, *SAVE_ALL, "--resume", "auto")
    assert read_progress(tmp_path / "run" / "checkpoints" / "last").step == 6


def test_a_run_may_go_on_when_the_disk_is_full(blobs_config: Path, tmp_path: Path) -> None:
    trainer = full_disk_after(blobs_config, 4, "--checkpoint.on_error", "continue")
    trainer.fit()
    assert steps(tmp_path / "run") == [1, 2, 3]
    assert (tmp_path / "run" / "model.safetensors").exists()
    log = (tmp_path / "run" / "console.log").read_text()
    assert log.count("the run continues (checkpoint.on_error)") == 3


def test_records_wait_for_a_full_disk_and_none_is_lost_or_cut(
    blobs_config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = Trainer(load_config(blobs_config, ["--checkpoint.on_error", "continue"]).config)
    write, limits = trainer.log.write, iter([None, None, 1, 300, None])

    def write_on_full_disk(record: dict[str, object]) -> None:
        limit = next(limits, None)
        if limit is None:
            write(record)
        else:
            with largest_file(limit):
                write(record)

    trainer.log.write = write_on_full_disk  # type: ignore[method-assign]
    trainer.fit()
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    assert [record["step"] for record in records if "train/loss" in record] == [1, 2, 3, 4, 5, 6]
    assert len(records) == 9
    assert "2 records wait" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flipped bit", "no text", "bak", "strange name", "score of another type"])
def test_what_is_no_checkpoint_does_not_keep_a_run_from_the_next_good_one(
    blobs_config: Path, tmp_path: Path, damage: str
) -> None:
    fit(blobs_config, *SAVE_ALL)
    folder = tmp_path / "run" / "checkpoints"
    newest = folder / "step_00000006"
    if damage == "flipped bit":
        content = bytearray((newest / "manifest.json").read_bytes())
        content[10] ^= 0x80
        (newest / "manifest.json").write_bytes(content)
    elif damage == "no text":
        (newest / "manifest.json").write_bytes(bytes(range(256)))
    elif damage == "score of another type":
        progress = json.loads((newest / "progress.json").read_text())
        (newest / "progress.json").write_text(json.dumps({**progress, "score": "high"}))
    elif damage == "bak":
        newest.rename(folder / "step_00000006.bak")
    else:
        newest.rename(folder / "step_of_mine")
    fit(blobs_config, *SAVE_ALL, "--resume", "auto", "--train.epochs", "2")
    assert steps_of_good(folder) == [1, 2, 3, 4, 5, 6]
    kept = {path.name for path in folder.iterdir() if path.name.startswith("replaced_")}
    if damage in ("bak", "strange name"):
        assert (folder / {"bak": "step_00000006.bak", "strange name": "step_of_mine"}[damage]).is_dir()
    else:
        assert kept == {"replaced_step_00000006"}, "a damaged checkpoint is kept"


def steps_of_good(folder: Path) -> list[int]:
    paths = [path for path in folder.iterdir() if path.name.removeprefix("step_").isdigit()]
    return sorted(int(path.name.removeprefix("step_")) for path in paths if find_damage(path) is None)


@pytest.mark.slow
def test_links_left_by_a_kill_or_lost_in_a_copy_are_put_right_at_the_next_start(
    blobs_config: Path, tmp_path: Path
) -> None:
    fit(blobs_config, *SAVE_ALL)
    run, copy = tmp_path / "run", tmp_path / "copy"
    for name in ("last", "best"):
        (run / "checkpoints" / name).unlink()
        (run / "checkpoints" / name).symlink_to("step_00000001")
    Trainer(load_config(blobs_config, [*SAVE_ALL, "--resume", "auto"]).config).close()
    assert (run / "checkpoints" / "last").readlink() == Path("step_00000006")
    assert (run / "checkpoints" / "best").readlink() != Path("step_00000001")
    shutil.copytree(run, copy, symlinks=False)  # as `cp -rL` does
    assert not (copy / "checkpoints" / "last").is_symlink()
    fit(blobs_config, *SAVE_ALL, "--resume", "auto", "--run.dir", str(copy), "--train.epochs", "3")
    assert (copy / "checkpoints" / "last").readlink() == Path("step_00000009")
    assert (copy / "checkpoints" / "replaced_last").is_dir(), "what somebody copied is kept"


def test_a_replacement_that_was_interrupted_is_undone(blobs_config: Path, tmp_path: Path) -> None:
    fit(blobs_config, "--checkpoint.keep_last", "1")
    folder = tmp_path / "run" / "checkpoints"
    for path in folder.glob("step_*"):
        path.rename(folder / f".{path.name}.replaced")
    trainer = Trainer(load_config(blobs_config, ["--resume", "auto"]).config)
    trainer.close()
    assert trainer.progress.step == 6
    assert steps_of_good(folder)[-1] == 6


@pytest.mark.parametrize("fault", ["missing", "no pickle", "another thing"])
def test_a_random_state_that_cannot_be_read_is_refused(
    blobs_config: Path, tmp_path: Path, fault: str
) -> None:
    fit(blobs_config)
    last = (tmp_path / "run" / "checkpoints" / "last").resolve()
    file = last / "random_states_0.pkl"
    if fault == "missing":
        file.unlink()
    elif fault == "no pickle":
        file.write_bytes(b"nothing")
    else:
        torch.save({"step": 3}, file)
    (last / "manifest.json").unlink()
    write_manifest(last)
    with pytest.raises(UserError, match=r"random_states_0\.pkl cannot be read .* would not resume exactly"):
        fit(blobs_config, "--resume", str(last), "--train.epochs", "3")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["lost", "cut", "damaged", "changed"])
def test_a_log_that_is_not_what_it_was_is_reported(
    blobs_config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    fit(blobs_config)
    log = tmp_path / "run" / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    if fault == "lost":
        log.unlink()
    elif fault == "cut":
        log.write_bytes(b"".join(lines[:3]))
    elif fault == "damaged":
        log.write_bytes(b"".join([*lines[:2], b"\xff" + lines[2][1:], *lines[3:]]))
    else:
        log.write_bytes(b"".join([lines[0].replace(b'"step": 1', b'"step": 7'), *lines[1:]]))
    fit(blobs_config, "--resume", "auto", "--train.epochs", "3")
    records = len(lines) - 1  # all but that of the test were there when the last checkpoint was written
    left = {"lost": 0, "cut": 3, "damaged": records - 1}
    if fault == "changed":
        assert "metrics.jsonl has changed since the checkpoint was saved" in caplog.text
    else:
        assert f"holds {left[fault]} of the {records} records up to the checkpoint" in caplog.text
    assert len(read_records(log)) == left.get(fault, records) + 5, "three steps, a validation, a test"


def test_a_log_that_is_whole_is_not_reported(
    blobs_config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(blobs_config)
    fit(blobs_config, "--resume", "auto", "--train.epochs", "3")
    assert "metrics.jsonl" not in caplog.text


def test_records_that_wait_are_written_with_the_next_checkpoint_and_at_the_end(
    blobs_config: Path, tmp_path: Path
) -> None:
    trainer = Trainer(load_config(blobs_config, ["--checkpoint.on_error", "continue"]).config)
    for number in (1, 2):
        with largest_file(1):
            trainer.log.write({"step": number})
    trainer.close()
    assert [record["step"] for record in read_records(tmp_path / "run" / "metrics.jsonl")] == [1, 2]


def test_no_checkpoint_counts_records_that_are_not_on_the_disk(blobs_config: Path, tmp_path: Path) -> None:
    trainer = Trainer(load_config(blobs_config, ["--checkpoint.on_error", "continue"]).config)
    trainer.log.file = tmp_path / "nowhere" / "metrics.jsonl"
    trainer.fit()
    assert steps(tmp_path / "run") == []
    assert "records are not in it" in (tmp_path / "run" / "console.log").read_text()
