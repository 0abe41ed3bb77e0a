"""Processes that die and memory that runs out."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from anynet_dist.data.batch_plan import plan_batches
from anynet_dist.training.resilience.faults import Peer, lost_rank, out_of_memory
from tests.conftest import PATIENCE, ROOT, Start
from tests.training.conftest import assert_same_run, wait_for_step

Launch = Callable[..., subprocess.CompletedProcess[str]]

LONG = (
    "--train.epochs",
    "5000",
    "--resume",
    "auto",
    "--checkpoint.every",
    "5 steps",
)


def ranks_of(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that train, by rank."""
    children = psutil.Process(launcher.pid).children(recursive=True)
    ranks = [child for child in children if "LOCAL_RANK" in child.environ() and "train" in child.cmdline()]
    parents = {rank.pid for rank in ranks}
    return sorted((r for r in ranks if r.ppid() not in parents), key=lambda r: r.environ()["RANK"])


def test_the_rank_that_is_gone_is_named() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        started = psutil.Process(process.pid).create_time()
    here = psutil.Process()
    peers = [
        Peer(0, socket.gethostname(), here.pid, here.create_time()),
        Peer(1, socket.gethostname(), process.pid, started),
    ]
    error = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:9")
    assert str(lost_rank(error, peers)).startswith(
        f"rank 1 (process {process.pid} on {socket.gethostname()}) is gone ("
    )
    elsewhere = [peers[0], peers[1]._replace(host="elsewhere")]
    assert "another rank is gone or no longer answers" in str(lost_rank(error, elsewhere))
    assert lost_rank(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), peers) is None
    assert lost_rank(error, peers[:1]) is None


def test_memory_that_runs_out_is_told_with_what_to_lower() -> None:
    plan = plan_batches(512, world_size=2)
    cuda = torch.device("cuda:0")
    message = str(out_of_memory(torch.OutOfMemoryError("CUDA out of memory"), plan, 224, "fp32", cuda))
    assert "out of memory on cuda:0 with 256 images of 224 x 224 in fp32 at a time" in message
    assert "--train.max_device_batch 128 accumulates 2 such batches, for the same 512 images" in message
    assert "train.precision bf16" in message
    assert out_of_memory(RuntimeError("shapes differ"), plan, 224, "fp32", cuda) is None


OUT_OF_MEMORY = """
import resource, sys
from anynet_dist.cli import main
from anynet_dist.training.trainer import Trainer
fit = Trainer.fit
def with_little_memory(trainer):
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + 300 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return fit(trainer)
Trainer.fit = with_little_memory
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_batch_too_large_for_the_memory_ends_the_run_with_advice(
    blobs_config: Path, tmp_path: Path
) -> None:
    wide: tuple[str, ...] = ("--model.num_channels", "8", "2048", "2048", "--data.train_res", "64")
    wide += ("--train.global_batch", "72", "--data.val_fraction", "0")
    command = [sys.executable, "-c", OUT_OF_MEMORY, "train", str(blobs_config), *wide]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert result.returncode == 1
    assert "anynet: error: out of memory on cpu with 72 images of 64 x 64 in fp32" in result.stderr
    assert "--train.max_device_batch 36 accumulates 2 such batches" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_without_a_launcher_the_rank_left_over_ends_by_itself_and_names_the_one_that_is_gone(
    blobs_config: Path, tmp_path: Path, start: Start, free_port: int, victim: int
) -> None:
    world = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port),
    }
    options = (*LONG, "--data.loader", "torch")
    ranks = [
        start("train", blobs_config, *options, RANK=str(rank), LOCAL_RANK=str(rank), **world)
        for rank in range(2)
    ]
    wait_for_step(tmp_path / "run", 12)
    helpers = [child for rank in ranks for child in psutil.Process(rank.pid).children(recursive=True)]
    assert len(helpers) > 4, "a server, its workers"
    ranks[victim].kill()
    output, _ = ranks[1 - victim].communicate(timeout=PATIENCE)
    assert ranks[1 - victim].returncode == 1
    assert f"rank {victim} (process {ranks[victim].pid} on {socket.gethostname()}) is gone" in output
    assert "Traceback" not in output
    psutil.wait_procs(helpers, timeout=PATIENCE)
    assert not [helper for helper in helpers if helper.is_running()], "no orphans"
    assert not (tmp_path / "run" / "resume_me").exists(), "it did not ask to be resumed"


@pytest.mark.multiprocess
@pytest.mark.slow
def test_accelerate_names_the_dead_rank_starts_all_again_and_the_run_goes_on(
    blobs_config: Path, tmp_path: Path, launch: Launch
) -> None:
    options = (
        "--train.epochs",
        "100",
        "--eval.every",
        "50",
        "--resume",
        "auto",
        "--checkpoint.every",
        "10 steps",
    )
    command = [str(Path(sys.executable).with_name("accelerate")), "launch"]
    command += ["--config_file", str(ROOT / "launch" / "two_processes.yaml"), "--max_restarts", "1"]
    command += ["--monitor_interval", "2", "-m", "anynet_dist", "train", str(blobs_config), *options]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        wait_for_step(tmp_path / "run", 12)
        killed = time.time()
        ranks_of(running)[1].send_signal(signal.SIGKILL)
        output, _ = running.communicate(timeout=PATIENCE)
    finally:
        for child in psutil.Process(running.pid).children(recursive=True) if running.poll() is None else []:
            child.kill()
        running.kill()
    assert running.returncode == 0, output
    assert re.search(r"failed \(exitcode: -9\) local_rank: 1", output)
    assert "resuming from" in output
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime > killed
    launch("train", blobs_config, *options, "--run.dir", tmp_path / "whole", processes=2)
    assert_same_run(tmp_path / "whole", tmp_path / "run")
