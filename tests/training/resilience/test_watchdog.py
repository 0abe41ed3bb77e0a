"""A process that was asked to stop ends, whatever it waits for, and says what that is."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from anynet_dist.system.output import TolerantStream
from tests.conftest import PATIENCE, Start, launch_command
from tests.training.conftest import wait_for_step

pytestmark = pytest.mark.slow

LONG = ("--train.epochs", "5000", "--data.val_fraction", "0")

# A block that never comes back from its third step.
HANGING_STEM = """
import os, time
from anynet_dist.models.registry import register_stem
from anynet_dist.models.stems import ConvStem

@register_stem("hanging")
class HangingStem(ConvStem):
    pooling = False
    steps = 0

    def forward(self, images):
        self.steps += self.training
        if self.steps == 12 and os.environ.get("RANK", "0") == os.environ["HANGS"]:
            time.sleep(3600)
        return super().forward(images)
"""


def world(rank: int, port: int, size: int = 2) -> dict[str, str]:
    """What a scheduler tells a process of a run without a launcher."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What a process prints, up to the line with a text."""
    assert process.stdout
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    pytest.fail(f"'{text}' was not printed:\n{seen}")


@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGTERM), (1, signal.SIGINT)])
def test_a_rank_that_waits_for_one_that_never_comes_can_be_stopped_and_names_it(
    blobs_config: Path, tmp_path: Path, start: Start, free_port: int, rank: int, number: int
) -> None:
    waiting = start("train", blobs_config, **world(rank, free_port))
    missing = "rank 1 of 2" if rank == 0 else f"rank 0 at 127.0.0.1:{free_port}"
    read_until(waiting, f"warning: rank {rank} has waited 5 s for {missing}")
    waiting.send_signal(number)
    output, _ = waiting.communicate(timeout=PATIENCE)
    assert waiting.returncode == 75, output
    if rank == 0:  # the others only speak when something is wrong
        assert f"received {signal.Signals(number).name} while waiting for {missing}" in output
    assert "Traceback" not in output


def test_a_rank_that_never_comes_ends_the_run_in_its_time_and_is_named(
    blobs_config: Path, start: Start, free_port: int
) -> None:
    waiting = start("train", blobs_config, "--run.timeout", "0.02", **world(0, free_port, size=3))
    output, _ = waiting.communicate(timeout=PATIENCE)
    assert waiting.returncode == 1
    assert "ranks 1, 2 of 3 did not come within 1 s" in output
    assert "Traceback" not in output


def test_a_port_in_use_is_named(blobs_config: Path, start: Start) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        output, _ = (rank := start("train", blobs_config, **world(0, port))).communicate(timeout=PATIENCE)
    assert rank.returncode == 2
    assert f"rank 0 cannot listen at 127.0.0.1:{port}" in output
    assert "Traceback" not in output


@pytest.mark.multiprocess
@pytest.mark.parametrize("press", ["SIGTERM", "Ctrl-C twice"])
def test_a_run_with_a_stopped_rank_can_be_ended_and_names_it(
    blobs_config: Path, tmp_path: Path, start: Start, free_port: int, press: str
) -> None:
    ranks = [start("train", blobs_config, *LONG, **world(rank, free_port)) for rank in range(2)]
    wait_for_step(tmp_path / "run", 12)
    ranks[1].send_signal(signal.SIGSTOP)
    if press == "SIGTERM":
        ranks[0].terminate()
    else:
        ranks[0].send_signal(signal.SIGINT)
        time.sleep(1.2)
        ranks[0].send_signal(signal.SIGINT)
    output, _ = ranks[0].communicate(timeout=PATIENCE)
    assert ranks[0].returncode == 128 + (signal.SIGTERM if press == "SIGTERM" else signal.SIGINT)
    assert f"rank 1 (process {ranks[1].pid} on {socket.gethostname()}) is stopped" in output
    assert "Traceback" not in output
    assert (tmp_path / "run" / "resume_me").exists() == (press == "SIGTERM"), "a scheduler starts it again"


@pytest.mark.multiprocess
def test_a_rank_that_hangs_is_named_by_itself_and_by_the_file_and_line_where_it_hangs(
    blobs_config: Path, tmp_path: Path, start: Start, free_port: int
) -> None:
    plugin = tmp_path / "hanging.py"
    plugin.write_text(HANGING_STEM)
    options = (*LONG, "--plugins", str(plugin), "--model.stem", "hanging")
    ranks = [start("train", blobs_config, *options, HANGS="1", **world(rank, free_port)) for rank in range(2)]
    output = read_until(ranks[1], "has not moved for")
    assert "[rank 1] warning: rank 1 has not moved for" in output
    assert "hanging.py:14 (forward)" in output
    read_until(ranks[0], "rank 0 has waited")
    ranks[0].send_signal(signal.SIGQUIT)  # which it passes on to the other
    said = read_until(ranks[0], "for the other ranks at")
    assert re.search(r"where the ranks stand .*\n  rank 1, after step 11: works at \S*hanging\.py:14", said)
    stacks = tmp_path / "run" / "stacks"
    assert "rank 0, after step 11: waits for the other ranks" in (stacks / "summary.txt").read_text()
    assert 'hanging.py", line 14 in forward' in (stacks / "rank_1.txt").read_text()
    assert json.loads((stacks / "rank_1.json").read_text())["batches"] == 11
    for rank in ranks:
        rank.terminate()
    for rank in ranks:
        rank.communicate(timeout=PATIENCE)
        assert rank.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("fault", [signal.SIGSTOP, signal.SIGKILL])
def test_a_worker_of_the_loader_that_hangs_or_dies_does_not_keep_the_run_from_ending(
    blobs_config: Path, tmp_path: Path, start: Start, fault: signal.Signals
) -> None:
    running = start("train", blobs_config, *LONG, "--data.loader", "torch", "--data.workers", "1")
    wait_for_step(tmp_path / "run", 12)
    family = psutil.Process(running.pid).children(recursive=True)
    parents = {child.ppid() for child in family}
    workers = [child for child in family if child.pid not in parents and "forkserver" in str(child.cmdline())]
    assert len(workers) == 1
    workers[0].send_signal(fault)
    if fault == signal.SIGSTOP:
        time.sleep(1)
        running.terminate()
    output, _ = running.communicate(timeout=PATIENCE)
    if fault == signal.SIGSTOP:
        assert running.returncode == 128 + signal.SIGTERM
        assert "waited" in output
        assert "for data" in output
    else:
        assert running.returncode == 1
        assert f"a worker process of the loader ({workers[0].pid}) ended unexpectedly" in output
    assert "Traceback" not in output
    psutil.wait_procs(family, timeout=PATIENCE)
    assert not [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.multiprocess
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1])
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_ranks_whose_launcher_is_gone_save_and_stop(
    blobs_config: Path, tmp_path: Path, launcher: str, number: signal.Signals
) -> None:
    command = launch_command("train", blobs_config, *LONG, processes=2)
    if launcher == "accelerate":  # which starts a process alone without torch's launcher
        command = [str(Path(sys.executable).with_name("accelerate")), "launch", "--num_processes", "1"]
        command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--cpu"]
        command += ["-m", "anynet_dist", "train", str(blobs_config), *LONG]
    with open(tmp_path / "output", "w") as output:
        launched = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    try:
        wait_for_step(tmp_path / "run", 12)
        family = psutil.Process(launched.pid).children(recursive=True)
        launched.send_signal(number)
        launched.wait(timeout=PATIENCE)
        _, alive = psutil.wait_procs(family, timeout=PATIENCE)
    finally:
        launched.kill()
        for child in family:
            if child.is_running():
                child.kill()
    assert not alive
    assert "the launcher is gone: saving and stopping" in (tmp_path / "output").read_text()
    assert (tmp_path / "run" / "resume_me").exists()


@pytest.mark.parametrize("ignored", [False, True])
def test_sighup_saves_and_stops_unless_nohup_has_it_ignored(
    blobs_config: Path, tmp_path: Path, start: Start, ignored: bool
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        running = start("train", blobs_config, "--train.max_steps", "400", "--train.epochs", "500")
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for_step(tmp_path / "run", 5)
    running.send_signal(signal.SIGHUP)
    output, _ = running.communicate(timeout=PATIENCE)
    assert running.returncode == (0 if ignored else 75)
    assert ("received SIGHUP: saving and stopping" in output) != ignored


@pytest.mark.parametrize("output", ["terminal that is closed", "full disk", "closed pipe", "none"])
def test_output_that_is_lost_does_not_change_the_result(
    blobs_config: Path, tmp_path: Path, output: str
) -> None:
    options = ("--train.max_steps", "200", "--train.epochs", "500", "--data.val_fraction", "0")
    command = launch_command("train", blobs_config, *options, processes=1)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "80"}
    if output == "none":
        shell = ["sh", "-c", '"$@" >&- 2>&-', "sh", *command]
        assert subprocess.run(shell, env=environment, check=False).returncode == 0
    else:
        theirs, ours = {
            "terminal that is closed": pty.openpty,
            "full disk": lambda: (os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)),
            "closed pipe": os.pipe,
        }[output]()
        running = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=ours, stderr=ours, env=environment
        )
        os.close(ours)
        wait_for_step(tmp_path / "run", 5)
        os.close(theirs)
        assert running.wait(timeout=PATIENCE) == 0
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert '"finished"' in (tmp_path / "run" / "status.json").read_text()


def test_what_a_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    with open(tmp_path / "ascii", "w", encoding="ascii") as file:
        assert TolerantStream(file).write("schön\n") == 6
    assert (tmp_path / "ascii").read_text() == "sch\\xf6n\n"
