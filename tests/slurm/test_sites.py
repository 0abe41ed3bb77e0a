"""Clusters that want GPUs asked for in their way, containers, and environments that are not there."""

from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.conftest import User

pytestmark = pytest.mark.xdist_group("slurm")


@pytest.mark.parametrize("words", [("--gpus-per-node", "fake:2"), ("--gres", "gpu:fake:2")])
def test_gpus_of_a_type(user: User, cluster: Cluster, words: tuple[str, ...]) -> None:
    job = user.submit(user.config(train={"max_steps": 4}), user.site(), *words)
    user.finish(job)
    assert "world size 2" in job.text()


def test_a_type_that_the_cluster_lacks_is_refused_by_slurm(user: User, cluster: Cluster) -> None:
    said = cluster.run(
        "anynet", "submit", user.config(), "--site", user.site(), "--gpus-per-node", "h100:1", check=False
    )
    assert said == ""  # no job


def test_an_environment_that_is_missing_is_the_last_word(user: User, cluster: Cluster) -> None:
    job = user.submit(user.config(), user.site(VENV="/no/venv"))
    facts = cluster.wait(job.number, job.log)
    assert (facts["JobState"], facts["ExitCode"]) == ("FAILED", "2:0"), job.text()
    last = job.text().rpartition("what failed first")[2]
    assert "ANYNET_VENV: '/no/venv' is no virtual environment that works on n" in last
    assert "ANYNET_VENV: '/no/venv'" in user.anynet("status", job.run)


def test_pyxis_that_is_missing_is_named(user: User, cluster: Cluster) -> None:
    job = user.submit(user.config(), user.site(CONTAINER="a.sqsh", CONTAINER_RUNTIME="pyxis"))
    facts = cluster.wait(job.number, job.log)
    assert (facts["JobState"], facts["ExitCode"]) == ("FAILED", "2:0"), job.text()
    assert "ANYNET_CONTAINER: SLURM has no pyxis plug-in here" in job.text()


def test_a_run_in_a_container_that_is_stopped_goes_on(
    user: User, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its runtime is a stand-in, which runs what it is given."""
    runtime = user.folder / "bin" / "apptainer"
    runtime.parent.mkdir()
    runtime.write_text(
        f'#!/bin/bash\necho "$@" >>{user.folder}/record\nwhile [ "$1" != bash ]; do shift; done\n"$@"\n'
    )
    runtime.chmod(0o755)
    monkeypatch.setitem(cluster.environment, "PATH", f"{runtime.parent}:{cluster.environment['PATH']}")
    image = Path(user.folder, "a.sif")
    image.touch()
    job = user.submit(user.config(), user.site(CONTAINER=image, CONTAINER_RUNTIME="apptainer"))
    user.wait_for_steps(job, 5)
    cluster.run("scancel", "--signal=USR1", job.number)
    assert user.finish(job)["Restarts"] == "1"
    assert (user.folder / "record").read_text().count(f"--nv {image} bash -c") == 2
