"""Runs through the shipped templates on a real cluster."""

import json
import re
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.conftest import Submitted, User
from tests.training.conftest import assert_same_run

pytestmark = pytest.mark.xdist_group("slurm")


def test_two_nodes_train_together(whole: tuple[User, Submitted]) -> None:
    _, job = whole
    text = job.text()
    assert "2 met by gloo on 2 machines: n1, n2" in text  # the pre-flight
    assert "world size 2 (cpu, gloo on 2 machines)" in text
    assert (job.run / "model.safetensors").exists()
    for node in ("n1", "n2"):  # each keeps its own log
        assert (job.run / "slurm" / f"{job.number}-{node}.log").exists()
    assert "world size 2" in (job.run / "slurm" / f"{job.number}-n1.log").read_text()


def test_data_is_staged_once_to_each_node(whole: tuple[User, Submitted], cluster: Cluster) -> None:
    _, job = whole
    copied = re.findall(r"train\.beton on (n\d): .* copied in .*, checksum right", job.text())
    assert sorted(copied) == ["n1", "n2"]
    trained_on = re.search(r"train: (\S+)", (job.run / "config.yaml").read_text())
    assert trained_on
    assert trained_on.group(1).startswith(str(cluster.scratch))
    assert not list(cluster.scratch.iterdir())  # the nodes' disks, not this machine's


def test_status_knows_a_job_from_beginning_to_end(
    whole: tuple[User, Submitted], user: User, cluster: Cluster
) -> None:
    """One node, two processes started by accelerate; the result is the one of two nodes."""
    site = user.site(
        GPUS_PER_NODE=2, ACCELERATE_CONFIG=Path(__file__).parents[2] / "launch" / "two_processes.yaml"
    )
    blocker = cluster.run(
        "sbatch", "--parsable", "-N2", "--exclusive", "--partition=high", "--output=/dev/null",
        "--wrap", "sleep 300",
    ).strip()  # fmt: skip
    job = user.submit(user.config(), site)
    status = json.loads(user.anynet("status", "--json", job.run))
    assert (status["state"], status["where"]) == ("queued", f"job {job.number}")
    cluster.run("scancel", blocker)
    user.wait_for_steps(job)
    assert json.loads(user.anynet("status", "--json", job.run))["state"] == "running"
    user.finish(job)
    status = json.loads(user.anynet("status", "--json", job.run))
    assert (status["state"], status["restarts"]) == ("finished", 0)
    assert "world size 2 (cpu, gloo)" in job.text()
    assert_same_run(whole[1].run, job.run)


def test_a_sweep_trains_each_member_and_tells_which_failed(user: User, cluster: Cluster) -> None:
    members = user.folder / "members.txt"
    members.write_text(
        "# learning rates\n--optim.lr 0.1\n\n--data.train missing.beton\n--run.name 'two words'\n"
    )
    config = user.config(train={"max_steps": 6})
    job = user.submit(
        config, user.site(), "--members", members, "--at-once", 2, "--no-check-data", run="sweep"
    )
    logs = [job.run / "slurm" / f"{job.number}_{member}.out" for member in (1, 2, 3)]
    states = [
        cluster.wait(f"{job.number}_{member}", log)["JobState"] for member, log in enumerate(logs, start=1)
    ]
    assert states == ["COMPLETED", "FAILED", "COMPLETED"], "\n".join(log.read_text() for log in logs)
    last = logs[1].read_text().rpartition("what failed first")[2]
    assert "ended with exit code 2\nmissing.beton: no such file" in last
    saved = [(job.run / f"00{member}" / "config.yaml").read_text() for member in (1, 3)]
    assert "lr: 0.1\n" in saved[0]
    assert "name: two words\n" in saved[1]
    rows = [json.loads(line) for line in user.anynet("status", "--json", job.run).splitlines()]
    assert [(Path(row["run"]).name, row["state"]) for row in rows] == [
        ("001", "finished"),
        ("002", "failed"),
        ("003", "finished"),
    ]
    assert rows[1]["reason"].startswith("missing.beton: no such file")
