import pytest

from anynet_dist.config.schema import DataConfig
from anynet_dist.training.optim.resolution import train_resolution


def test_without_a_start_every_epoch_has_full_resolution() -> None:
    config = DataConfig(train_res=224)
    assert {train_resolution(config, epoch) for epoch in range(5)} == {224}


def test_images_grow_over_the_ramp_in_steps_of_32() -> None:
    config = DataConfig(start_res=160, train_res=224, res_ramp=(2, 6))
    sides = [train_resolution(config, epoch) for epoch in range(9)]
    assert sides == [160, 160, 160, 192, 192, 192, 224, 224, 224]


@pytest.mark.parametrize(("start", "full"), [(24, 32), (18, 30)])
def test_small_images_grow_in_steps_of_4(start: int, full: int) -> None:
    config = DataConfig(start_res=start, train_res=full, res_ramp=(0, 4))
    sides = [train_resolution(config, epoch) for epoch in range(6)]
    assert sides[0] == start
    assert sides == sorted(sides)
    assert sides[4:] == [full, full]
    assert all(side % 4 == 0 for side in sides if start < side < full)
