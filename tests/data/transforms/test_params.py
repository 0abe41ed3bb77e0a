from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from anynet_dist.data.transforms import params as columns
from anynet_dist.data.transforms.apply import place
from anynet_dist.data.transforms.augmentation import Augmentation
from anynet_dist.data.transforms.params import SampleParams, SampleTransform, uniform_draws
from anynet_dist.system.errors import UserError

MANY = np.arange(20_000)


def draw(transform: SampleTransform, epoch: int = 0, height: int = 32, width: int = 32) -> SampleParams:
    return transform.params(epoch, MANY, np.full(len(MANY), height), np.full(len(MANY), width))


def transform(resolution: int = 32, **options: Any) -> SampleTransform:
    return SampleTransform(resolution=resolution, augment=Augmentation(**options), seed=3)


def test_draws_are_uniform_and_independent() -> None:
    draws = uniform_draws(0, 0, MANY, 5)
    assert ((draws >= 0) & (draws < 1)).all()
    np.testing.assert_allclose(draws.mean(axis=0), 0.5, atol=0.01)
    np.testing.assert_allclose(draws.var(axis=0), 1 / 12, atol=0.002)
    correlations = np.corrcoef(draws.T) - np.eye(5)
    assert np.abs(correlations).max() < 0.03
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.03


def test_draws_depend_on_each_of_seed_epoch_and_index() -> None:
    base = uniform_draws(1, 2, MANY, 3)
    assert np.array_equal(base[500:600], uniform_draws(1, 2, MANY[500:600], 3))
    for other in (uniform_draws(2, 1, MANY, 3), uniform_draws(1, 3, MANY, 3), uniform_draws(2, 2, MANY, 3)):
        assert (base == other).mean() < 0.001


def test_flip_happens_to_half_of_the_images() -> None:
    assert abs(draw(transform(flip=True))[:, columns.FLIP].mean() - 0.5) < 0.015
    assert not draw(transform())[:, columns.FLIP].any()


def test_alternating_flip_draws_once_then_turns_every_image_each_epoch() -> None:
    alternate = transform(flip=True, flip_mode="alternate")
    first = draw(alternate)[:, columns.FLIP]
    assert abs(first.mean() - 0.5) < 0.015
    for epoch in (1, 2, 3, 4):
        flips = draw(alternate, epoch)[:, columns.FLIP]
        assert np.array_equal(flips, first if epoch % 2 == 0 else 1 - first)


def test_translate_covers_its_range_evenly() -> None:
    shifts = draw(transform(translate=4))[:, columns.SHIFT_Y : columns.SHIFT_X + 1]
    values, counts = np.unique(shifts, return_counts=True)
    assert values.tolist() == list(range(-4, 5))
    assert counts.min() > 0.9 * counts.mean()


def test_cutout_is_a_whole_square_anywhere_inside() -> None:
    rows = draw(transform(cutout=8))
    top, left, bottom, right = rows[:, columns.HOLE_TOP : columns.HOLE_RIGHT + 1].T
    assert (bottom - top == 8).all()
    assert (right - left == 8).all()
    assert (top.min(), top.max(), left.min(), left.max()) == (0, 24, 0, 24)


def test_random_boxes_lie_inside_and_have_the_asked_area_and_ratio() -> None:
    rows = draw(transform(224, random_resized_crop=True), height=300, width=300)
    top, left, height, width = rows[:, columns.TOP : columns.WIDTH + 1].T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 300).all()
    assert (left + width <= 300).all()
    area, ratio = height * width / 300**2, width / height
    assert area.min() > 0.079
    assert area.max() <= 1
    assert 0.74 < ratio.min() < 0.76
    assert 1.32 < ratio.max() < 1.35
    assert abs(np.log(ratio).mean()) < 0.02


def test_a_box_that_never_fits_falls_back_to_the_centre() -> None:
    rows = draw(transform(32, random_resized_crop=True, crop_scale=(1.0, 1.0)), height=10, width=1000)
    top, left, height, width = rows[0, columns.TOP : columns.WIDTH + 1]
    assert (top, left, height, width) == (0, 494, 10, 13)


def test_centre_crop_box() -> None:
    crop = SampleTransform(resolution=224, crop_ratio=224 / 256)
    rows = draw(crop, height=256, width=400)
    assert rows[0, columns.TOP : columns.WIDTH + 1].tolist() == [16, 88, 224, 224]
    assert not rows[:, columns.SHIFT_Y :].any()


def test_place_shifts_flips_and_fills() -> None:
    image = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    fill, row, out = (
        np.array([200, 201, 202], np.uint8),
        np.zeros(columns.NUM_COLUMNS, np.int64),
        np.empty_like(image),
    )
    row[[columns.SHIFT_Y, columns.SHIFT_X, columns.FLIP]] = 1, -1, 1
    row[[columns.HOLE_TOP, columns.HOLE_LEFT, columns.HOLE_BOTTOM, columns.HOLE_RIGHT]] = 0, 0, 1, 1
    place(image, row, fill, out)
    expected = np.tile(fill, (4, 4, 1))
    expected[:3, 1:] = image[1:, :3]  # one up, one to the right
    expected = expected[:, ::-1].copy()
    expected[0, 0] = fill
    assert np.array_equal(out, expected)


def test_place_reflects_at_the_edge() -> None:
    image = np.arange(5 * 5 * 3, dtype=np.uint8).reshape(5, 5, 3)
    row, out = np.zeros(columns.NUM_COLUMNS, np.int64), np.empty_like(image)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    for shift_y, shift_x, flip in ((2, -3, 0), (-4, 4, 1), (0, 1, 1), (0, 0, 1)):
        row[[columns.SHIFT_Y, columns.SHIFT_X, columns.FLIP, columns.REFLECT]] = shift_y, shift_x, flip, 1
        place(image, row, np.zeros(3, np.uint8), out)
        seen = padded[4 + shift_y : 9 + shift_y, 4 + shift_x : 9 + shift_x]
        assert np.array_equal(out, seen[:, ::-1] if flip else seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"translate": 32}, "translate of 32"),
        ({"cutout": 40}, "cutout of 40"),
        ({"translate": -1}, "translate: input should be greater than or equal to 0, not -1"),
        ({"flip_mode": "alternating"}, "unknown flip_mode 'alternating'; did you mean 'alternate'"),
        ({"translate_padding": "mirror"}, "unknown translate_padding 'mirror'"),
        ({"auto_augment": "autoaugment"}, "unknown auto_augment 'autoaugment'"),
        ({"auto_augment": "timm:original-mstd1"}, "auto_augment: timm's RandAugment is written timm:rand-m7"),
        ({"color_jitter": (0.1, 0.1, 0.1, 0.6)}, "color_jitter: input should be less than or equal to 0.5"),
        ({"color_jitter": (-0.1, 0.1, 0.1, 0.1)}, "color_jitter: input should be greater than or equal to 0"),
        ({"random_erasing": 1.5}, "random_erasing: input should be less than or equal to 1, not 1.5"),
        (
            {"auto_augment": "randaugment", "randaugment_magnitude": 31},
            "randaugment_magnitude: input should be less than or equal to 30, not 31",
        ),
        ({"crop_scale": (0.5, 1.5)}, "crop_scale"),
        ({"crop_aspect": (2.0, 1.0)}, "crop_aspect: the smallest comes first"),
    ],
)
def test_impossible_augmentation_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        transform(32, **options)
