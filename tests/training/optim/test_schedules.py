from itertools import pairwise

import pytest

from anynet_dist.config.schema import ScheduleConfig
from anynet_dist.training.optim.schedules import build_schedule


def test_cosine_with_warmup_is_the_one_pycls_trained_its_zoo_with() -> None:
    schedule = build_schedule(
        ScheduleConfig(name="cosine", warmup_epochs=5), steps_per_epoch=1, total_steps=100
    )
    published = {0: 0.08, 1: 0.22394473, 2: 0.36763692, 5: 0.79507534, 50: 0.4, 99: 0.00019738}
    for epoch, lr in published.items():
        assert 0.8 * schedule(epoch) == pytest.approx(lr, abs=1e-8)


def test_learning_rate_moves_with_every_update_not_every_epoch() -> None:
    schedule = build_schedule(ScheduleConfig(name="cosine"), steps_per_epoch=10, total_steps=100)
    factors = [schedule(step) for step in range(100)]
    assert all(earlier > later for earlier, later in pairwise(factors))


def test_multistep_drops_at_the_documents_milestones() -> None:
    config = ScheduleConfig(name="multistep", milestones=[100, 150], gamma=0.1)
    schedule = build_schedule(config, steps_per_epoch=7, total_steps=200 * 7)
    assert schedule(100 * 7 - 1) == 1
    assert schedule(100 * 7) == pytest.approx(0.1)
    assert schedule(150 * 7 - 1) == pytest.approx(0.1)
    assert schedule(150 * 7) == pytest.approx(0.01)


def test_onecycle_peaks_after_the_warmup_and_ends_at_the_final_share() -> None:
    config = ScheduleConfig(name="onecycle", warmup_epochs=2, warmup_start=0.25, final=0.1)
    schedule = build_schedule(config, steps_per_epoch=10, total_steps=100)
    assert schedule(0) == pytest.approx(0.25)
    assert schedule(20) == 1
    assert max(schedule(step) for step in range(100)) == 1
    assert schedule(60) == pytest.approx(0.55)
    assert schedule(100) == pytest.approx(0.1)


def test_constant_without_warmup_is_constant() -> None:
    schedule = build_schedule(ScheduleConfig(name="constant"), steps_per_epoch=3, total_steps=9)
    assert {schedule(step) for step in range(9)} == {1.0}
