from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from anynet_dist.models import Tally
from anynet_dist.models.registry import HEADS, STEMS, get_head, get_stem


def sides(name: str, side: int) -> int:
    """What a stem leaves of a side."""
    steps = {"conv3x3_s1": 0, "conv3x3_s2": 1, "conv7x7_s2_maxpool": 2, "conv3x3_maxpool": 1}[name]
    for _ in range(steps):
        side = (side + 1) // 2
    return side


@pytest.mark.parametrize("name", STEMS)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 17), (1, 2)])
def test_stem_shape_and_complexity(
    name: str, height: int, width: int, hooked: Callable[..., tuple[int, int, int]]
) -> None:
    stem = get_stem(name)(3, 24)
    image = torch.randn(1, 3, height, width)
    tally = Tally(3, height, width)
    get_stem(name).complexity(tally, 24)  # type: ignore[attr-defined]
    assert (tally.params, tally.flops, tally.acts) == hooked(stem, image)
    assert tally.shape == stem(image).shape[1:] == (24, sides(name, height), sides(name, width))


@pytest.mark.parametrize(
    ("name", "options"), [("linear", {"num_classes": 7, "dropout": 0.5}), ("features", {})]
)
def test_head_shape_and_complexity(
    name: str, options: dict[str, Any], hooked: Callable[..., tuple[int, int, int]]
) -> None:
    head = get_head(name)(24, **options)
    features = torch.randn(1, 24, 5, 3)
    tally = Tally(24, 5, 3)
    get_head(name).complexity(tally, **options)  # type: ignore[attr-defined]
    assert (tally.params, tally.flops, tally.acts) == hooked(head, features)
    assert head(features).shape == (1, tally.channels)


def test_every_head_is_tested() -> None:
    assert set(HEADS) == {"linear", "features"}


def test_features_are_channel_averages() -> None:
    x = torch.randn(2, 24, 5, 3)
    torch.testing.assert_close(get_head("features")(24)(x), x.mean((2, 3)))


def test_dropout_acts_in_training_only() -> None:
    head = get_head("linear")(256, num_classes=4, dropout=0.5)
    x = torch.randn(2, 256, 1, 1)
    assert not torch.equal(head.train()(x), head(x))
    assert torch.equal(head.eval()(x), head(x))
