from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from anynet_dist.data.batch_plan import BatchPlan
from anynet_dist.data.order import EvalPlan, SampleKeys, TrainPlan, epoch_order, sample_keys, split_indices
from anynet_dist.system.errors import UserError


def test_epoch_order_is_a_permutation_given_by_seed_and_epoch() -> None:
    first = epoch_order(1000, seed=7, epoch=3)
    assert first.dtype == np.int64
    assert np.array_equal(np.sort(first), np.arange(1000))
    assert np.array_equal(first, epoch_order(1000, seed=7, epoch=3))


def test_seeds_and_epochs_do_not_alias() -> None:
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (1, 4), (2, 2), (4, 1), (3, 2)])
def test_every_global_batch_is_the_same_for_any_world(world: int, accumulation: int) -> None:
    num_samples, global_batch = 103, 24
    plans = [
        TrainPlan(
            num_samples=num_samples,
            batch=BatchPlan(global_batch=global_batch, world_size=world, accumulation=accumulation),
            seed=1,
            rank=rank,
        )
        for rank in range(world)
    ]
    order = epoch_order(num_samples, 1, 5)
    shares = [plan.batches(5) for plan in plans]
    assert all(len(plan) == 4 * accumulation and plan.num_updates == 4 for plan in plans)
    for update in range(4):
        micro_batches = [share[update * accumulation + m] for m in range(accumulation) for share in shares]
        expected = order[update * global_batch : (update + 1) * global_batch]
        assert np.array_equal(np.concatenate(micro_batches), expected)


def test_training_resumes_by_index() -> None:
    plan = TrainPlan(num_samples=100, batch=BatchPlan(global_batch=16, world_size=2, accumulation=2), rank=1)
    whole = plan.batches(2)
    assert np.array_equal(plan.batches(2, first_batch=5), whole[5:])
    assert plan.batches(2, first_batch=len(plan)) == []


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (1, 4), (2, 2), (4, 1), (3, 2)])
@pytest.mark.parametrize(("num_samples", "repeats"), [(103, 1), (103, 3), (96, 1), (20, 1)])
def test_a_last_global_batch_that_is_kept_is_shared_evenly(
    world: int, accumulation: int, num_samples: int, repeats: int
) -> None:
    options: dict[str, Any] = {
        "num_samples": num_samples,
        "seed": 1,
        "repeats": repeats,
    }
    one = BatchPlan(global_batch=24, drop_last=False)
    whole = np.concatenate(TrainPlan(batch=one, **options).batches(5))
    divided = BatchPlan(global_batch=24, world_size=world, accumulation=accumulation, drop_last=False)
    plans = [TrainPlan(batch=divided, **options, rank=r) for r in range(world)]
    shares = [plan.batches(5) for plan in plans]
    assert [len(plan) for plan in plans] == [len(share) for share in shares]
    assert len(plans[0]) == accumulation * -(-num_samples // 24) == accumulation * plans[0].num_updates
    micro_batches = [share[number] for number in range(len(plans[0])) for share in shares]
    assert np.array_equal(np.concatenate(micro_batches), whole)
    assert len(np.unique(whole)) == num_samples
    sizes = [len(batch) for batch in micro_batches[-world * accumulation :]]
    assert sum(sizes) == (num_samples % 24 or 24)
    assert max(sizes) - min(sizes) <= 1
    dropped = np.concatenate(TrainPlan(batch=replace(one, drop_last=num_samples >= 24), **options).batches(5))
    assert np.array_equal(dropped, whole[: len(dropped)])


def test_a_last_global_batch_with_nothing_for_some_is_refused() -> None:
    options: dict[str, Any] = {
        "num_samples": 27,
        "batch": BatchPlan(global_batch=24, world_size=2, accumulation=2),
    }
    assert TrainPlan(**options).num_updates == 1
    with pytest.raises(UserError, match=r"has 3 samples, fewer than the 2 processes x 2 accumulation steps"):
        TrainPlan(**{**options, "batch": replace(options["batch"], drop_last=False)})


def test_repeated_samples_lie_side_by_side_with_keys_of_their_own() -> None:
    plan = TrainPlan(num_samples=100, batch=BatchPlan(global_batch=9), repeats=3)
    assert len(plan) == 11
    indices = np.arange(500, 600)
    batches = sample_keys(plan, indices, 1000, epoch=2, first_batch=0)
    keys = SampleKeys(np.concatenate([batch.values for batch in batches]), 1000)
    order = epoch_order(100, 0, 2)[:33] + 500
    assert np.array_equal(keys.indices, np.repeat(order, 3))
    assert np.array_equal(keys.copies, np.tile([0, 1, 2], 33))
    (last,) = sample_keys(plan, indices, 1000, epoch=2, first_batch=10)
    assert np.array_equal(last.values, keys.values[90:])


@pytest.mark.parametrize("num_samples", [0, 1, 2, 7, 100, 1003])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_evaluation_covers_each_sample_once(num_samples: int, world: int) -> None:
    plans = [
        EvalPlan(num_samples=num_samples, batch_size=32, rank=rank, world_size=world) for rank in range(world)
    ]
    seen = np.concatenate([[], *(batch for plan in plans for batch in plan.batches(0))])
    assert np.array_equal(np.sort(seen), np.arange(num_samples))
    for plan in plans:
        sizes = [len(batch) for batch in plan.batches(0)]
        assert len(plan) == len(sizes)
        assert all(size == 32 for size in sizes[:-1])


def test_too_few_samples_names_both_numbers() -> None:
    with pytest.raises(UserError, match=r"10 samples.*global batch of 16"):
        TrainPlan(num_samples=10, batch=BatchPlan(global_batch=16))


def test_a_global_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="among 3 devices with 2 accumulated steps each; set it to 12 or 18"):
        BatchPlan(global_batch=16, world_size=3, accumulation=2)


def test_split_is_disjoint_complete_and_given_by_seed() -> None:
    train, val = split_indices(1000, 0.1, seed=4)
    assert len(val) == 100
    assert np.array_equal(np.sort(np.concatenate([train, val])), np.arange(1000))
    assert np.array_equal(val, split_indices(1000, 0.1, seed=4)[1])
    assert not np.array_equal(val, split_indices(1000, 0.1, seed=5)[1])


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 0.0001])
def test_a_split_that_leaves_a_part_empty_is_refused(fraction: float) -> None:
    with pytest.raises(UserError, match="fraction"):
        split_indices(100, fraction, seed=0)
