"""A population trained by the tasks of one array: each member once, through a stop and a requeue."""

import json
import re

import pytest

from anynet_dist.runs.metrics_log import read_records
from tests.slurm.cluster import Cluster, wait_until
from tests.slurm.conftest import User

pytestmark = pytest.mark.xdist_group("slurm")

SPACE = """
name: tiny
stages: 2
stem_width: 8
resolution: 8
num_classes: 3
model: {block_type: vanilla, stem: conv3x3_s2, strides: [1, 2]}
parameters:
  depth: {uniform: [1, 3]}
  width: {choice: [8, 16], stages: ordered}
"""


def test_two_tasks_share_the_members_and_go_on_after_a_stop(user: User, cluster: Cluster) -> None:
    space, folder = user.folder / "tiny.yaml", user.folder / "population"
    space.write_text(SPACE)
    config = user.config(
        train={"max_steps": 250}, data={"val": str(user.data / "val.beton")}, eval={"every": 500}
    )
    user.anynet("sweep", "sample", space, "--n", 4, "--out", folder, "--config", config)
    site = user.site(SIGNAL="USR2")
    said = user.anynet("sweep", "submit", folder, "--site", site, "--workers", 2, "--at-once", 2)
    found = re.match(r"job (\d+)\n", said)
    assert found, said
    logs = [folder / "slurm" / f"{found.group(1)}_{task}.out" for task in (1, 2)]

    def said_so_far() -> str:
        return "\n".join(log.read_text() for log in logs if log.exists())

    def steps(member: str) -> list[int]:
        log = folder / "runs" / member / "metrics.jsonl"
        return [r["step"] for r in read_records(log) if "train/loss" in r] if log.exists() else []

    wait_until(lambda: len(steps("0000")) > 5 and len(steps("0001")) > 5, 120, said_so_far, every=0.05)
    cluster.run("scancel", "--signal=USR2", f"{found.group(1)}_1")  # as SLURM does before the time limit
    for task, log in enumerate(logs, start=1):
        facts = cluster.wait(f"{found.group(1)}_{task}", log, 300)
        assert facts["JobState"] == "COMPLETED", said_so_far()
    assert "queued again (restart 1 of at most 20): " in logs[0].read_text(), logs[0].read_text()
    status = json.loads(user.anynet("sweep", "status", folder, "--json"))
    assert (status["finished"], status["failed"]) == (4, 0)
    for member in ("0000", "0001", "0002", "0003"):
        assert steps(member) == list(range(1, 251)), "each step once"
