"""Requests to stop: signals and time limits."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from anynet_dist.config import load_config
from anynet_dist.system.distributed import job_end
from anynet_dist.system.errors import StoppedEarly
from anynet_dist.training.resilience.stop_requests import SECOND_PRESS_S
from anynet_dist.training.trainer import Trainer
from tests.conftest import PATIENCE, Start
from tests.training.conftest import assert_same_run, signal_in_step, wait_for_step

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def trainer(config: Path, *overrides: str) -> Trainer:
    return Trainer(load_config(config, overrides).config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "option"),
    [
        (signal.SIGTERM, ()),
        (signal.SIGINT, ()),
        (signal.SIGUSR1, ()),
        (signal.SIGUSR2, ("--run.stop_signal", "SIGUSR2")),
    ],
)
def test_a_signal_lets_the_run_save_and_say_that_it_wants_to_be_resumed(
    blobs_config: Path, tmp_path: Path, number: signal.Signals, option: tuple[str, ...]
) -> None:
    before = signal.getsignal(number)
    stopped = trainer(blobs_config, "--train.epochs", "100", *option)
    signal_in_step(stopped, 2, number)
    with pytest.raises(StoppedEarly, match=f"received {number.name}"):
        stopped.fit()
    assert signal.getsignal(number) == before
    run = tmp_path / "run"
    step = stopped.progress.step
    assert (run / "checkpoints" / "last").resolve().name == f"step_{step:08d}"
    mark = json.loads((run / "resume_me").read_text())
    assert (mark["step"], mark["reason"]) == (step, f"received {number.name}")
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["restarts"], status["pid"]) == ("stopped", 0, os.getpid())
    trainer(blobs_config, "--train.epochs", "100", "--train.max_steps", "9", "--resume", "auto").fit()
    assert not (run / "resume_me").exists()
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["restarts"], status["step"]) == ("finished", 1, 9)


def test_ctrl_c_a_second_time_stops_at_once(blobs_config: Path, tmp_path: Path) -> None:
    stopped = trainer(blobs_config, "--train.epochs", "1000")
    signal_in_step(stopped, 2, signal.SIGINT)
    pending = stopped.stop_requests.pending

    def press_again() -> int:
        if pending():
            stopped.stop_requests.noted -= SECOND_PRESS_S  # the first press was so long ago
            os.kill(os.getpid(), signal.SIGINT)
        return pending()

    stopped.stop_requests.pending = press_again  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        stopped.fit()
    assert not (tmp_path / "run" / "resume_me").exists()
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["run.max_time", "the SLURM job's time limit"])
def test_the_run_saves_and_stops_before_its_time_is_up(
    blobs_config: Path, tmp_path: Path, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: tuple[str, ...] = ("--train.epochs", "100000", "--data.val_fraction", "0")
    options += ("--checkpoint.every", "100000", "--train.log_every", "1000")
    if limit == "run.max_time":
        options += ("--run.max_time", "00:00:03", "--run.stop_margin", "1")
    else:
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 63))
    started = time.time()
    stopped, asked = trainer(blobs_config, *options), list[int]()
    (moment,) = stopped.stop_requests.limits.values()
    end = moment + stopped.config.run.stop_margin
    assert end == (job_end() if job_end() else pytest.approx(started + 3, abs=time.time() - started))
    pending = stopped.stop_requests.pending

    def note() -> int:
        asked.append(pending())
        return asked[-1]

    stopped.stop_requests.pending = note  # type: ignore[method-assign]
    with pytest.raises(StoppedEarly, match=limit):
        stopped.fit()
    assert asked[-1]
    assert not any(asked[:-1]), "it stopped when the ranks first looked after the moment"
    assert (tmp_path / "run" / "resume_me").exists()


@pytest.mark.multiprocess
@pytest.mark.slow
def test_a_signal_to_one_of_two_ranks_stops_both_and_the_same_command_goes_on(
    blobs_config: Path, tmp_path: Path, start: Start, launch: Callable[..., object]
) -> None:
    options: tuple[str, ...] = ("--train.epochs", "60", "--eval.every", "20", "--train.max_device_batch", "6")
    torch_loader = ("--data.loader", "torch")  # it has worker processes; the pixels are those of the others
    running = start("train", blobs_config, *options, *torch_loader, "--resume", "auto", processes=2)
    wait_for_step(tmp_path / "run", 5)
    ranks = [process for process in psutil.Process(running.pid).children() if "train" in process.cmdline()]
    assert len(ranks) == 2
    loader_workers = ranks[1].children(recursive=True)
    assert loader_workers
    for process in [*loader_workers, ranks[1]]:  # as a scheduler does
        process.send_signal(signal.SIGUSR1)
    output, _ = running.communicate(timeout=PATIENCE)
    assert running.returncode != 0
    assert "received SIGUSR1: saving and stopping" in output
    assert "exitcode  : 75" in output
    assert (tmp_path / "run" / "resume_me").exists()
    launch("train", blobs_config, *options, "--resume", "auto", processes=2)
    launch("train", blobs_config, *options, "--run.dir", tmp_path / "whole", processes=2)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


@pytest.mark.multiprocess
@pytest.mark.slow
def test_the_launcher_passes_sigterm_on_and_the_exit_code_of_one_process_says_resume_me(
    blobs_config: Path, tmp_path: Path, start: Start
) -> None:
    for processes in (1, 2):
        running = start(
            *("train", blobs_config, "--train.epochs", "1000", "--resume", "auto"), processes=processes
        )
        wait_for_step(tmp_path / "run", 5 * processes)
        running.terminate()
        output, _ = running.communicate(timeout=PATIENCE)
        assert "received SIGTERM: saving and stopping" in output
        assert (tmp_path / "run" / "resume_me").exists()
        if processes == 1:
            assert running.returncode == 75
        status = json.loads((tmp_path / "run" / "status.json").read_text())
        assert status["state"] == "stopped"
        (tmp_path / "run" / "metrics.jsonl").unlink()
