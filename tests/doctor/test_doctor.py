"""`anynet doctor`: alone, in two real processes, and where something is wrong."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from anynet_dist.doctor import environment, machine
from anynet_dist.doctor.findings import Finding, run_check
from anynet_dist.doctor.report import _by_machine
from anynet_dist.system.distributed import LAUNCHER
from tests.conftest import PATIENCE

Launch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = (*LAUNCHER, "LOCAL_WORLD_SIZE", "GROUP_RANK", "WANDB_MODE", "WANDB_API_KEY", "NETRC")
    for name in (*names, *(name for name in os.environ if name.startswith("SLURM_"))):
        monkeypatch.delenv(name, raising=False)


def doctor(*words: str, ulimit: int = 8192, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "anynet_dist", "doctor", *words]
    return subprocess.run(
        ["bash", "-c", f'ulimit -n {ulimit}; exec "$@"', "bash", *command],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def only(findings: object) -> Finding:
    (finding,) = list(findings)  # type: ignore[call-overload]
    return finding


@pytest.mark.slow
def test_alone_all_is_well_here(tmp_path: Path) -> None:
    done = doctor("--run-dir", str(tmp_path), "--cpu", WANDB_MODE="offline")
    assert done.returncode == 0, done.stdout
    subjects = {line.split()[1] for line in done.stdout.splitlines()[:-1]}
    assert {"versions", "GPUs", "FFCV", "disk", "shm", "limits", "launcher", "SLURM", "W&B"} <= subjects
    assert "0 problems" in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_problems_are_told_with_their_remedies_and_exit_1(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    secret = "5" * 40
    done = doctor(
        *("--run-dir", "/proc/runs", "--cpu"), ulimit=200, RANK="3", WORLD_SIZE="2", WANDB_API_KEY=secret
    )
    assert done.returncode == 1, done.stderr
    assert re.search(r"problem +limits +200 open files.*\n +-> ulimit -n 4096", done.stdout)
    assert re.search(r"problem +disk +/proc cannot be written.*\n +-> choose another --run\.dir", done.stdout)
    assert re.search(r"problem +launcher +RANK, WORLD_SIZE set, but not LOCAL_RANK", done.stdout)
    assert secret not in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("3 problems")


@pytest.mark.multiprocess
@pytest.mark.slow
def test_two_ranks_meet(tmp_path: Path, launch: Launch) -> None:
    done = launch("doctor", "--distributed", "--cpu", "--run-dir", tmp_path, processes=2)
    report = [line for line in done.stdout.splitlines() if re.match(r"(ok|warning|problem) ", line)]
    assert sum("versions" in line for line in report) == 1, "only rank 0 speaks"
    assert f"2 met by gloo on 1 machines: {socket.gethostname()}" in done.stdout
    assert re.search(r"ok +clocks +clocks at most 0\.\d+ s apart", done.stdout)
    bandwidth = re.search(r"all-reduce +16 MiB in [\d.]+ ms: ([\d.]+) GB/s bus bandwidth", done.stdout)
    assert bandwidth
    assert float(bandwidth[1]) > 0


@pytest.mark.slow
def test_ranks_that_do_not_come_are_a_problem(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    done = doctor(
        *("--distributed", "--cpu", "--timeout", "3", "--run-dir", str(tmp_path)),
        RANK="0",
        WORLD_SIZE="2",
        LOCAL_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=port,
    )
    assert done.returncode == 1
    assert f"problem  ranks        they did not meet at 127.0.0.1:{port} within 3 s" in done.stdout


@pytest.mark.multiprocess
@pytest.mark.slow
def test_srun_without_a_launcher_is_enough(tmp_path: Path) -> None:
    """SLURM's variables for two tasks, as srun sets them."""
    job = str(2 * 20000 + os.getpid() % 20000)
    shared = {"SLURM_JOB_ID": job, "SLURM_NTASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2"}
    shared |= {"SLURM_STEP_NODELIST": "localhost", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "anynet_dist",
                "doctor",
                "--distributed",
                "--cpu",
                "--run-dir",
                str(tmp_path),
            ],
            env={**os.environ, **shared, "SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    first, second = [rank.communicate(timeout=PATIENCE)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], first
    assert f"2 processes meet at localhost:{10000 + int(job) % 20000}" in first
    assert second == ""


def test_distributed_alone_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anynet_dist.doctor import report

    monkeypatch.setattr(report, "examine_machine", lambda options: [])
    lines: list[str] = []
    assert report.examine(report.Options(distributed=True), lines.append) == 1
    assert "this is the only process" in lines[0]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK=2 with WORLD_SIZE=2"),
        (
            {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"},
            "LOCAL_RANK=2 with LOCAL",
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"},
            "LOCAL_WORLD_SIZE=4 with",
        ),
        ({"RANK": "zero", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK=zero: not a number"),
    ],
)
def test_launchers_variables_that_contradict_each_other(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name, value in {"MASTER_ADDR": "n1", "MASTER_PORT": "12345", **variables}.items():
        monkeypatch.setenv(name, value)
    findings = list(environment.check_launcher())
    assert [finding.level for finding in findings] == ["problem"]
    assert message in findings[0].text


def test_gpus_that_are_promised_and_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(str(n) for n in range(torch.cuda.device_count() + 1)))
    finding = next(iter(machine.check_gpus()))
    assert finding.level == "problem"
    assert next(iter(machine.check_gpus(cpu=True))).level == "ok"


def test_slurm_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(environment.check_slurm()).text == "not a SLURM job"
    for name, value in {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_END_TIME": str(time.time() + 600),
        "SLURM_CPUS_PER_TASK": "100000",
        "SLURM_STEP_ID": "0",
        "SLURM_NODEID": "1",
        "GROUP_RANK": "0",
    }.items():
        monkeypatch.setenv(name, value)
    fine, cores, node = environment.check_slurm()
    assert fine.text == "job 7, 2 nodes, 10 minutes left"
    assert "export SRUN_CPUS_PER_TASK" in cores.remedy
    assert (node.level, node.text) == ("problem", "the launcher calls this machine 0, SLURM node 1")


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("n[1-2]", "n1"), ("gpu-a[01,07-09],b3", "gpu-a01"), ("n[3]", "n3")],
)
def test_first_node(nodes: str, first: str) -> None:
    assert environment.first_node(nodes) == first


def test_wandb_login_is_found_without_showing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert only(environment.check_wandb()).level == "warning"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0123456789\n")
    found = only(environment.check_wandb())
    assert found.level == "ok"
    assert "0123456789" not in json.dumps(str(found))
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert only(environment.check_wandb()).level == "warning"


def test_little_room_is_a_warning_and_almost_none_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path).free
    for few, too_few, level in ((2, 1, "ok"), (2 * free, 1, "warning"), (4 * free, 2 * free, "problem")):
        for kind in ("DISK", "SHM"):
            monkeypatch.setattr(machine, f"{kind}_FEW", few)
            monkeypatch.setattr(machine, f"{kind}_TOO_FEW", too_few)
        assert only(machine.check_disk(tmp_path / "not" / "yet")).level == level
        assert only(machine.check_shared_memory(tmp_path)).level == level


def test_a_check_that_fails_is_a_problem_of_its_own() -> None:
    def check() -> list[Finding]:
        raise RuntimeError("no such thing\nmore")

    assert only(run_check(check, "thing")).text == "the check failed: no such thing"


def test_what_only_some_machines_have_names_them() -> None:
    everywhere, somewhere = Finding("ok", "a", "x"), Finding("warning", "b", "y", "z")
    merged = _by_machine([("n1", [everywhere]), ("n1", []), ("n2", [everywhere, somewhere])])
    assert [str(finding).splitlines()[0] for finding in merged] == [
        "ok       a            x",
        "warning  b            y (n2)",
    ]
