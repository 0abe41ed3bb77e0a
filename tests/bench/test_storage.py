from __future__ import annotations

import os
import shutil
from pathlib import Path

import psutil
import pytest

from anynet_dist.bench import storage as plan
from anynet_dist.bench.storage import Cost, Machine, advise, judge, measure_costs, this_machine
from anynet_dist.data.beton.estimate import estimate
from anynet_dist.data.beton.profiles import PROFILES
from anynet_dist.data.samples import FolderSamples
from anynet_dist.data.sources import Source

GB = 10**9


def cost(profile: str, gigabytes: float, rate: float) -> Cost:
    resolution = PROFILES[profile].options.max_resolution
    assert resolution is not None
    return Cost(
        profile=profile,
        max_resolution=resolution,
        num_samples=1_000_000,
        size=int(gigabytes * GB),
        build_seconds=1,
        rate_per_core=rate,
    )


COSTS = [
    cost("raw256", 170, 4000),
    cost("mix400", 370, 2500),
    cost("mix500", 340, 1500),
    cost("jpeg500", 65, 500),
]


@pytest.mark.parametrize(
    ("disk", "memory", "cores", "target", "profile", "reason"),
    [
        (1000, 500, 10, None, "raw256", "fastest"),
        (1000, 500, 10, 4000, "jpeg500", "page cache"),  # the smallest of those with the most detail
        (1000, 500, 10, 12_000, "mix500", "page cache"),
        (1000, 500, 10, 20_000, "mix400", "page cache"),
        (1000, 500, 10, 30_000, "raw256", "page cache"),
        (1000, 200, 10, 12_000, "raw256", "page cache"),  # mix500 would be read from the disk
        (1000, 100, 10, 12_000, "mix500", "not into the page cache"),
        (1000, 500, 10, 99_000, "raw256", "not fast enough"),
        (100, 500, 10, 12_000, "jpeg500", "not fast enough"),
        (100, 500, 10, None, "jpeg500", "fastest"),
        (10, 500, 10, None, None, "none fits on the disk"),
    ],
)
def test_advice(
    disk: int, memory: int, cores: int, target: float | None, profile: str | None, reason: str
) -> None:
    machine = Machine(disk_free=disk * GB, memory=memory * GB, cores=cores)
    best, why = advise(judge(COSTS, machine, target), target)
    assert (best.cost.profile if best else None) == profile
    assert reason in why


def test_what_the_disk_must_read() -> None:
    (verdict,) = judge(COSTS[2:3], Machine(disk_free=10**12, memory=0, cores=10), 5000)
    assert verdict.disk_rate(5000) == pytest.approx(5000 * 340_000)
    assert verdict.disk_rate(None) == pytest.approx(15_000 * 340_000)


@pytest.mark.slow
def test_costs_are_measured_on_the_images(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "MEASURED_SECONDS", 0.02)
    samples = FolderSamples(photos, ["china", "flower"])
    costs = {
        cost.profile: cost
        for cost in measure_costs(Source("photos", ("china", "flower"), samples, samples), 1)
    }
    assert list(costs) == list(PROFILES)
    assert all(cost.rate_per_core > 0 and cost.num_samples == 48 for cost in costs.values())
    assert costs["jpeg500"].size < costs["mix500"].size < costs["mix400"].size
    single = estimate(samples, PROFILES["raw256"].options, workers=1)
    assert costs["raw256"].size == 2 * single.size


def test_this_machine(tmp_path: Path) -> None:
    machine = this_machine(tmp_path / "not" / "there" / "yet")
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert 0 < machine.memory <= psutil.virtual_memory().total
    assert 0 < machine.disk_free <= shutil.disk_usage(tmp_path).total
