"""A run of two processes, killed again and again at random moments, against the same run left in peace.

The long form, whose numbers go into docs/reliability.md:
`pytest tests/training/resilience/test_soak.py --kills 20 --loader torch -s`
"""

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from anynet_dist.runs.metrics_log import read_records
from tests.conftest import PATIENCE, Start
from tests.training.conftest import assert_same_run, wait_for_step

HOW = ("SIGKILL rank 0", "SIGKILL rank 1", "SIGKILL all", "SIGTERM", "SIGUSR1")
EXPECTED_CODES = {0, 1, 75, -signal.SIGKILL}


def everything(kills: int, loader: str) -> tuple[str, ...]:
    """Accumulation, mixing, dropout, a moving average, progressive resizing, checkpoints amid the epochs."""
    epochs = 60 + 40 * kills
    return (
        *("--train.epochs", str(epochs), "--train.max_device_batch", "6", "--train.log_every", "2"),
        *("--model.dropout", "0.2", "--ema.decay", "0.9", "--data.augment.mixup", "0.2"),
        *("--data.start_res", "8", "--data.res_ramp", "0", str(epochs), "--checkpoint.every", "4 steps"),
        *("--eval.every", "30", "--run.resume", "auto", "--data.loader", loader, "--data.workers", "1"),
    )


def last_step(run: Path) -> int:
    """The last step that a run has logged."""
    log = run / "metrics.jsonl"
    records = read_records(log) if log.exists() else []
    return records[-1]["step"] if records else 0


def begin(start: Start, config: Path, port: int, *options: object) -> list[subprocess.Popen[str]]:
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    numbers = [{"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    return [start("train", config, *options, **world, **number) for number in numbers]


def disturb(ranks: list[subprocess.Popen[str]], how: str) -> None:
    if how == "SIGKILL all":
        for rank in ranks:
            for process in (psutil.Process(rank.pid), *psutil.Process(rank.pid).children(recursive=True)):
                process.kill()
    elif how.startswith("SIGKILL"):
        ranks[int(how[-1])].kill()
    else:
        for rank in ranks:
            rank.send_signal(getattr(signal, how))


def ends(ranks: list[subprocess.Popen[str]], how: str) -> list[str]:
    """What the ranks said, once both have ended; where one does not, fail with what all threads do."""
    try:
        return [rank.communicate(timeout=PATIENCE)[0] for rank in ranks]
    except subprocess.TimeoutExpired:
        states = [f"rank {number}: {rank.poll()}" for number, rank in enumerate(ranks)]
        for rank in ranks:
            rank.send_signal(signal.SIGABRT)  # faulthandler shows the stacks of all threads
        psutil.wait_procs([psutil.Process(rank.pid) for rank in ranks if rank.poll() is None], timeout=10)
        helpers = [
            f"{p.pid} {p.status()} {p.cmdline()}"
            for p in psutil.process_iter()
            if "anynet_dist" in str(p.cmdline())
        ]
        for rank in ranks:
            rank.kill()
        said = [rank.stdout.read() if rank.stdout else "" for rank in ranks]
        pytest.fail("\n".join([f"{how}: a rank did not end", *states, *helpers, *said]))


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_at_random_moments_ends_as_if_uninterrupted(
    blobs_config: Path,
    tmp_path: Path,
    start: Start,
    free_port: int,
    kills: int,
    soak_loader: str,
    launch: Callable[..., object],
) -> None:
    options = everything(kills, soak_loader)
    launch("train", blobs_config, *options, "--run.dir", tmp_path / "whole", processes=2)
    chance, done, lost = random.Random(0), Counter[str](), 0.0
    order = [HOW[number % len(HOW)] for number in range(kills)]
    chance.shuffle(order)
    for how in order:
        ranks = begin(start, blobs_config, free_port, *options)
        wait_for_step(tmp_path / "run", last_step(tmp_path / "run") + chance.randint(1, 50))
        time.sleep(chance.uniform(0, 0.03))
        if ranks[0].poll() is not None:
            pytest.fail(f"the run ended before the kill: {ranks[0].communicate()[0]}")
        disturb(ranks, how)
        disturbed = time.monotonic()
        outputs = ends(ranks, how)
        lost = max(lost, time.monotonic() - disturbed)
        codes = {rank.returncode for rank in ranks}
        assert codes <= EXPECTED_CODES, "\n".join(outputs)
        alive = [output for rank, output in zip(ranks, outputs, strict=True) if rank.returncode >= 0]
        assert not any("Traceback" in output for output in alive), "\n".join(outputs)
        done[how] += 1
    launch("train", blobs_config, *options, processes=2)
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    print(
        f"\n{dict(done)}: the same weights, optimizer and log; all ranks had ended after {lost:.1f} s at most"
    )
