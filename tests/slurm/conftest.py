"""The cluster, and runs handed in to it as a user would: with `anynet submit` and a file of settings."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.slurm.cluster import Cluster, ClusterTakenError, missing, wait_until

STEPS = 400


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of two nodes; tests are skipped where it cannot be started."""
    reason = missing()
    if reason:
        pytest.skip(f"no SLURM cluster: {reason}")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that pytest tidies up then too
    try:
        cluster = Cluster()
    except ClusterTakenError as error:
        pytest.skip(f"no SLURM cluster: {error}")
    try:
        yield cluster
    finally:
        cluster.close()
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True)
class Submitted:
    """A job, the folder of its run, or of its sweep, and its log."""

    number: str
    run: Path
    log: Path

    def text(self) -> str:
        """The log so far."""
        return self.log.read_text() if self.log.exists() else ""


class User:
    """Somebody with a config and settings of the cluster, who submits."""

    def __init__(self, cluster: Cluster, folder: Path, data: Path) -> None:
        self.cluster, self.folder, self.data = cluster, folder, data

    def site(self, **settings: object) -> Path:
        """A file of settings; names without ANYNET_."""
        common = {
            "PARTITION": "low",
            "TIME": "10",
            "GPUS_PER_NODE": 1,
            "CPUS_PER_GPU": 2,
            "SIGNAL_SECONDS": 10,
            "VENV": sys.prefix,
        }
        lines = [f"ANYNET_{name}='{value}'\n" for name, value in {**common, **settings}.items()]
        path = self.folder / "site.sh"
        path.write_text("".join(lines))
        return path

    def config(self, **changes: Any) -> Path:
        """A config of a tiny network and many steps, with a checkpoint after every 20th."""
        config: dict[str, Any] = {
            "run": {"timeout": 3},
            "data": {
                "train": str(self.data / "train.beton"),
                "loader": "device",
                "augment": {"flip": True, "translate": 2},
            },
            "model": {
                "block_type": "vanilla",
                "num_blocks_per_stage": [1, 1],
                "num_channels": [8, 8, 16],
                "strides": [1, 2],
            },
            "train": {
                "epochs": 1000,
                "max_steps": STEPS,
                "global_batch": 24,
                "precision": "fp32",
                "memory_format": "contiguous",
                "log_every": 1,
            },
            "optim": {"lr": 0.05},
            "checkpoint": {"every": "20 steps"},
            "tracking": {"report": False},
        }
        for section, values in changes.items():
            config[section] = {**config.get(section, {}), **values}
        path = self.folder / "blobs.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    def anynet(self, *words: object) -> str:
        """The output of `anynet`."""
        return self.cluster.run(sys.executable, "-m", "anynet_dist", *words)

    def submit(self, config: Path, site: Path, *words: object, run: str = "run") -> Submitted:
        """Submit a run, or with --members a sweep, into `run` below the user's folder."""
        folder = self.folder / run
        said = self.anynet("submit", config, "--site", site, *words, "--run.dir", folder)
        found = re.match(r"job (\d+)\n", said)
        assert found, said
        assert f"folder: {folder}\n" in said
        return Submitted(found.group(1), folder, folder / "slurm" / f"{found.group(1)}.out")

    def finish(self, job: Submitted, seconds: float = 150) -> dict[str, str]:
        """Wait for the job; it must complete."""
        facts = self.cluster.wait(job.number, job.log, seconds)
        assert facts["JobState"] == "COMPLETED", f"{facts}\n{job.text()}\n{self.cluster.log()}"
        return facts

    def wait_for_steps(self, job: Submitted, steps: int = 1, seconds: float = 90) -> None:
        """Until the run has taken some steps."""
        metrics = job.run / "metrics.jsonl"

        def lines() -> int:
            return metrics.read_text().count("\n") if metrics.exists() else 0

        wait_until(lambda: lines() >= steps, seconds, lambda: f"no steps: {job.text()}", every=0.05)


@pytest.fixture
def user(cluster: Cluster, tmp_path: Path, blob_betons: Path) -> User:
    """A user with a folder of this test's own."""
    return User(cluster, tmp_path, blob_betons)


@pytest.fixture(scope="session")
def whole(
    cluster: Cluster, blob_betons: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[User, Submitted]:
    """A run of two nodes that nothing has interrupted, with its data on the nodes' own disks.

    It asks for no GPUs, for the pre-flight would miss them.
    """
    user = User(cluster, tmp_path_factory.mktemp("whole"), blob_betons)
    site = user.site(GPUS_PER_NODE=0, STAGE_DIR=cluster.scratch / "anynet", PREFLIGHT="yes")
    job = user.submit(user.config(), site, "--nodes", 2)
    user.finish(job)
    return user, job
