import numpy as np
import pytest

from anynet_dist.data.batch_plan import plan_batches
from anynet_dist.system.errors import UserError


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_global_batch_does_not_depend_on_the_number_of_devices(world_size: int) -> None:
    plan = plan_batches(512, world_size)
    assert plan.device_batch * world_size * plan.accumulation == 512
    assert plan.accumulation == 1


def test_accumulation_is_derived_from_what_a_device_can_hold() -> None:
    plan = plan_batches(512, world_size=2, max_device_batch=100)
    assert (plan.device_batch, plan.accumulation) == (64, 4)


def test_one_device_with_accumulation_sees_the_micro_batches_of_two() -> None:
    assert plan_batches(512, 1, max_device_batch=256).device_batch == plan_batches(512, 2).device_batch


@pytest.mark.parametrize("images_left", [512, 513, 100, 37])
def test_weighted_micro_batches_average_to_the_mean_over_images(images_left: int) -> None:
    plan = plan_batches(512, world_size=2, max_device_batch=100)
    losses = np.random.default_rng(0).random(min(512, images_left))
    parts = np.array_split(losses, 8)
    means = [
        [plan.loss_weight(len(part), images_left) * part.mean() for part in parts[r::2]] for r in range(2)
    ]
    assert np.mean(means) == pytest.approx(losses.mean(), rel=1e-12)
    weights = {plan.loss_weight(len(part), images_left) for part in parts}
    assert (weights == {1.0}) == (images_left != 100 and images_left != 37)


def test_uneven_global_batch_is_refused_with_the_nearest_that_fit() -> None:
    with pytest.raises(
        UserError, match="510 images cannot be divided evenly among 4 devices; set it to 508 or 512"
    ):
        plan_batches(510, 4)


def test_fewer_images_than_devices_names_only_a_possible_batch() -> None:
    with pytest.raises(UserError, match="set it to 8, or change"):
        plan_batches(3, 8)
