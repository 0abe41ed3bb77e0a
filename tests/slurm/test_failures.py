"""A rank that fails: the job's log ends with its traceback, and the job with its exit code."""

from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.conftest import User

pytestmark = pytest.mark.xdist_group("slurm")

FAILING_BLOCK = """
import os
from anynet_dist import register_block
from anynet_dist.models.blocks import VanillaBlock

@register_block("failing")
class FailingBlock(VanillaBlock):
    calls = 0

    def forward(self, x):
        FailingBlock.calls += self.training  # not where its cost is measured
        if FailingBlock.calls == 9 and os.environ["RANK"] == "1":
            {what}
        return super().forward(x)
"""


def failing(user: User, what: str) -> tuple[Path, tuple[object, ...]]:
    """A config, with overrides, of which rank 1 fails in one of the first steps."""
    plugin = user.folder / "failing.py"
    plugin.write_text(FAILING_BLOCK.format(what=what))
    return user.config(model={"block_type": "failing"}), ("--plugins", plugin)


def test_its_traceback_is_the_last_word(user: User, cluster: Cluster) -> None:
    config, words = failing(user, "raise ValueError('the cat ate it')")
    job = user.submit(config, user.site(), "--nodes", 2, *words)
    facts = cluster.wait(job.number, job.log)
    assert (facts["JobState"], facts["ExitCode"]) == ("FAILED", "1:0"), job.text()
    last = job.text().rpartition("what failed first")[2]
    assert "rank 1 on n2 ended with exit code 1\nTraceback (most recent call last)" in last
    assert last.rstrip().endswith("ValueError: the cat ate it")
    assert "queued again" not in job.text()


def test_its_exit_code_becomes_the_jobs(user: User, cluster: Cluster) -> None:
    """Without a launcher, and without a chance for python to say anything."""
    config, words = failing(user, "os._exit(7)")
    job = user.submit(config, user.site(GPUS_PER_NODE=2), "--launcher", "none", *words)
    facts = cluster.wait(job.number, job.log)
    assert (facts["JobState"], facts["ExitCode"]) == ("FAILED", "7:0"), job.text()
    assert "task 1 on n1 ended with exit code 7" in job.text().rpartition("what failed first")[2]


def test_a_pre_flight_that_finds_problems_starts_no_run(user: User, cluster: Cluster) -> None:
    """SLURM promises GPUs here that torch does not see."""
    job = user.submit(user.config(), user.site(PREFLIGHT="yes"), "--nodes", 2)
    facts = cluster.wait(job.number, job.log)
    assert (facts["JobState"], facts["ExitCode"]) == ("FAILED", "1:0"), job.text()
    assert "sees 0 GPUs, the environment promises 1" in job.text()
    assert "the pre-flight found problems: the run is not started" in job.text()
    assert not (job.run / "checkpoints").exists()
