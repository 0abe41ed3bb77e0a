from __future__ import annotations

from typing import Any

import pytest

from anynet_dist.models import network_complexity, network_spec, regnet_description, regnet_stages
from anynet_dist.models.regnet import compatible_widths, generous_multiple, nearest_multiple
from anynet_dist.system.errors import UserError


def test_stages_of_regnetx_400mf_before_and_after_the_groups_fit() -> None:
    stages = regnet_stages(w0=24, wa=24.48, wm=2.54, depth=22)
    assert stages.widths == (24, 64, 152, 392)
    assert stages.depths == (1, 2, 7, 12)
    assert stages.num_levels == 4
    assert compatible_widths(stages.widths, [1] * 4, [16] * 4) == ((32, 64, 160, 384), (16, 16, 16, 16))


def test_levels_that_round_to_one_width_are_seen() -> None:
    stages = regnet_stages(w0=8, wa=1.0, wm=1.3, depth=12)
    assert stages.num_levels > len(stages.widths)


def test_group_width_never_exceeds_the_bottleneck() -> None:
    assert compatible_widths([16], [4.0], [32]) == ((16,), (4,))


def test_inverted_bottleneck_keeps_the_outer_width_whole() -> None:
    (width,), (group,) = compatible_widths([50], [0.25], [24])
    assert (width, group) == (48, 24)
    assert width * 4 % group == 0


@pytest.mark.parametrize(("value", "rounded"), [(20, 16), (28, 32), (12, 16), (1, 8)])
def test_rounding_half_to_even(value: float, rounded: int) -> None:
    assert nearest_multiple(value, 8) == rounded


def test_torchvision_rounding_keeps_ninety_percent() -> None:
    assert nearest_multiple(23, 16) == 16
    assert generous_multiple(23, 16) == 32


def test_description_is_in_the_vocabulary() -> None:
    description = regnet_description(w0=24, wa=24.48, wm=2.54, depth=22, group_width=16)
    assert network_complexity(network_spec(**description)).params == 5_157_512


@pytest.mark.parametrize("change", [{"w0": 20}, {"w0": 0}, {"wa": -1.0}, {"wm": 1.0}, {"depth": 0}])
def test_parameters_out_of_range(change: dict[str, Any]) -> None:
    parameters: dict[str, Any] = {"w0": 24, "wa": 24.48, "wm": 2.54, "depth": 22} | change
    with pytest.raises(UserError, match=f"RegNet needs .*{next(iter(change.values()))}"):
        regnet_stages(**parameters)
