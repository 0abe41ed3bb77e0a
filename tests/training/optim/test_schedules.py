from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from anynet_dist.config.schema import ScheduleConfig
from anynet_dist.system.errors import UserError
from anynet_dist.training.optim.schedules import (
    Schedule,
    build_schedule,
    register_schedule,
    schedule_problems,
)


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


@pytest.mark.usefixtures("registries")
def test_a_schedule_of_ones_own_gets_what_it_asks_for_and_the_warmup() -> None:
    @register_schedule("line")
    def line(total_steps: int, warmup_steps: int, slope: float = 1.0) -> Schedule:
        return lambda step: 1 - slope * max(0, step - warmup_steps) / (total_steps - warmup_steps)

    config = ScheduleConfig(name="line", options={"slope": 0.5}, warmup_epochs=1, warmup_start=0.0)
    schedule = build_schedule(config, steps_per_epoch=10, total_steps=30)
    assert [schedule(step) for step in (0, 5, 10, 20, 30)] == [0, 0.5, 1, 0.75, 0.5]
    by_epoch = build_schedule(replace(config, update="epoch"), steps_per_epoch=10, total_steps=30)
    assert [by_epoch(step) for step in (9, 19, 29)] == [0, 1, 0.75]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"name": "cosin"},
            "schedule.name: unknown schedule 'cosin'; did you mean 'cosine'?"
            " (allowed: constant, cosine, multistep, onecycle)",
        ),
        ({"options": {"final": 1}}, "schedule.options.final: set schedule.final in its place"),
        (
            {"name": "constant", "options": {"total_steps": 1}},
            "schedule.options.total_steps: is not for you to set: the run decides it",
        ),
    ],
)
def test_what_is_wrong_with_a_schedule_is_said(options: dict[str, Any], problem: str) -> None:
    assert [str(each) for each in schedule_problems(ScheduleConfig(**options))] == [problem]


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (lambda step: -1, r"numbers >= 0 \(got -1, -1, -1\)"),
        (lambda step: "fast", r"got fast"),
        (lambda: 1, r"'mine' fails: TypeError"),
        (None, r"'mine' fails: TypeError: 'NoneType' object is not callable"),
    ],
)
def test_a_schedule_that_is_no_factor_is_refused(shape: Any, message: str) -> None:
    register_schedule("mine")(lambda total_steps: shape)
    with pytest.raises(UserError, match=rf"schedule\.name: .*{message}"):
        build_schedule(ScheduleConfig(name="mine"), steps_per_epoch=1, total_steps=9)
