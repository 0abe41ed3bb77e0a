from __future__ import annotations

import os

import pytest

from anynet_dist.data.worker_pool import map_ranges
from anynet_dist.data.workers import choose_workers, usable_cores
from anynet_dist.system.errors import UserError


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_STEP_TASKS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)


def test_cores_are_shared_by_the_local_ranks() -> None:
    assert choose_workers(None, local_world=1) == 8
    assert choose_workers(None, local_world=4) == 2
    assert choose_workers(None, local_world=16) == 1


def test_slurm_limits_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    assert usable_cores() == (4, "SLURM_CPUS_PER_TASK")
    assert choose_workers(None, local_world=2) == 2  # one task that launches two ranks


def test_ranks_that_are_slurm_tasks_have_cores_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "2(x3)")
    assert choose_workers(None, local_world=2) == 4


def test_more_workers_than_a_machine_can_hold_are_refused() -> None:
    assert choose_workers(128, local_world=1) == 128
    with pytest.raises(UserError, match="between 1 and 128, not 129"):
        choose_workers(129, local_world=1)
    with pytest.raises(UserError, match="between 1 and 128, not 1000000"):
        next(map_ranges(lambda first, last: last, 10, workers=10**6))


def test_the_library_has_a_limit_too() -> None:
    assert choose_workers(None, local_world=1, limit=3) == 3
    assert choose_workers(2, local_world=1, limit=3) == 2
    with pytest.raises(UserError, match="between 1 and 3, not 4"):
        choose_workers(4, local_world=1, limit=3)
    with pytest.raises(UserError, match=r"between 1 and \d+, not 0"):
        choose_workers(0, local_world=1)
