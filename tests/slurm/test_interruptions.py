"""Jobs that are stopped go back into the queue, resume, and end with the result of one that was not."""

import pytest

from tests.slurm.cluster import Cluster, wait_until
from tests.slurm.conftest import Submitted, User
from tests.training.conftest import assert_same_run

pytestmark = pytest.mark.xdist_group("slurm")

SLOW_BLOCK = """
import time
from anynet_dist import register_block
from anynet_dist.models.blocks import VanillaBlock

@register_block("slow")
class SlowBlock(VanillaBlock):
    def forward(self, x):
        time.sleep(0.03)
        return super().forward(x)
"""


def test_a_signal_stops_and_requeues(whole: tuple[User, Submitted], user: User, cluster: Cluster) -> None:
    job = user.submit(user.config(), user.site(SIGNAL="USR2"), "--nodes", 2)
    user.wait_for_steps(job)
    cluster.run("scancel", "--signal=USR2", job.number)  # as SLURM does before the time limit
    facts = user.finish(job)
    assert facts["Restarts"] == "1"
    assert "queued again (restart 1 of at most 20): received SIGUSR2" in job.text()
    assert not (job.run / "resume_me").exists()
    assert_same_run(whole[1].run, job.run)


def test_a_job_of_higher_priority_has_precedence(
    whole: tuple[User, Submitted], user: User, cluster: Cluster
) -> None:
    """Without a launcher: two tasks on one node, with data that is staged and removed in each start."""
    disk = cluster.scratch / "of this test"
    site = user.site(GPUS_PER_NODE=2, STAGE_DIR=disk, STAGE_KEEP="no")
    job = user.submit(user.config(), site, "--launcher", "none")
    user.wait_for_steps(job)
    other = cluster.run(
        "sbatch", "--parsable", "-N2", "--exclusive", "--partition=high", "--output=/dev/null",
        "--wrap", "true",
    ).strip()  # fmt: skip
    facts = user.finish(job)
    assert facts["Restarts"] == "1"
    assert cluster.job(other)["JobState"] == "COMPLETED"
    assert "received SIGTERM" in job.text()
    assert job.text().count("checksum right") == 2
    node = facts["NodeList"]
    assert cluster.run("srun", "--nodelist", node, "ls", "-d", disk) == f"{disk}\n"
    assert cluster.run("srun", "--nodelist", node, "ls", disk) == ""
    assert_same_run(whole[1].run, job.run)


def test_the_time_limit_stops_and_requeues(user: User, cluster: Cluster) -> None:
    """One process, slowed down so that it needs more than the time of its first start."""
    plugin = user.folder / "slow.py"
    plugin.write_text(SLOW_BLOCK)
    config = user.config(model={"block_type": "slow"}, train={"max_steps": 300})
    words = ("--plugins", plugin, "--run.stop_margin", "45")
    job = user.submit(config, user.site(), "--time", "1", *words)
    wait_until(lambda: cluster.job(job.number)["Restarts"] == "1", 90, job.text)
    cluster.run("scontrol", "update", f"JobId={job.number}", "TimeLimit=10")
    user.finish(job)
    assert "queued again (restart 1 of at most 20)" in job.text()
    assert "SLURM job's time limit is near" in job.text()


def test_a_cancelled_job_stays_cancelled(user: User, cluster: Cluster) -> None:
    job = user.submit(user.config(), user.site())
    user.wait_for_steps(job)
    cluster.run("scancel", job.number)
    assert cluster.wait(job.number, job.log)["JobState"] == "CANCELLED"
    assert "queued again" not in job.text()


def test_restarts_are_limited(user: User, cluster: Cluster) -> None:
    job = user.submit(user.config(), user.site(MAX_RESTARTS=0))
    user.wait_for_steps(job)
    cluster.run("scancel", "--signal=USR1", job.number)
    facts = cluster.wait(job.number, job.log)
    assert (facts["JobState"], facts["ExitCode"]) == ("FAILED", "75:0")
    assert "not queued again: already restarted 0 times (ANYNET_MAX_RESTARTS)" in job.text()
    assert (job.run / "resume_me").exists()


@pytest.mark.timeout(400)
def test_a_node_that_dies_is_waited_for(whole: tuple[User, Submitted], user: User, cluster: Cluster) -> None:
    job = user.submit(user.config(), user.site(), "--nodes", 2)
    user.wait_for_steps(job, steps=50)  # so that there is a checkpoint
    cluster.cut_power("n2")
    wait_until(lambda: cluster.job(job.number)["JobState"] == "PENDING", 120, job.text)
    cluster.start_node("n2")
    facts = user.finish(job)
    assert int(facts["Restarts"]) >= 1
    assert "resuming from" in job.text()
    assert_same_run(whole[1].run, job.run)
