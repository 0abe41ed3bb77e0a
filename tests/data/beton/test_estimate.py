"""The size of a .beton file before it is written."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anynet_dist.data.beton import estimate as estimates
from anynet_dist.data.beton.build import build_beton
from anynet_dist.data.beton.estimate import Estimate, check_room, estimate
from anynet_dist.data.beton.writer import WriteMode, WriteOptions
from anynet_dist.data.samples import ArraySamples, FolderSamples
from anynet_dist.system.errors import UserError


@pytest.fixture(scope="module")
def one_large(tmp_path_factory: pytest.TempPathFactory) -> FolderSamples:
    """200 images, no JPEG among the first, and one of them a thousand times as large as the others."""
    root = tmp_path_factory.mktemp("one_large")
    (root / "any").mkdir()
    generator = np.random.default_rng(0)
    for number in range(200):
        side = 1000 if number == 100 else 32
        pixels = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "any" / f"{number:03}.{'png' if number < 5 else 'jpg'}")
    return FolderSamples(root, ["any"])


@pytest.mark.parametrize("write_mode", ["raw", "jpg"])
def test_the_estimate_is_the_size_where_all_images_are_looked_at(
    write_mode: WriteMode, one_large: FolderSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "MOST_SECONDS", 1e9)
    options = WriteOptions(write_mode=write_mode)
    expected = estimate(one_large, options, workers=1)
    sidecar = build_beton(one_large, tmp_path / "a.beton", classes=("any",), options=options, workers=1)
    assert expected.sampled == 200
    assert expected.uncertainty == 0
    assert expected.size == pytest.approx(sidecar.size, rel=0.01)


def test_slow_images_are_still_sampled_enough_to_know(
    one_large: FolderSamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long decoding takes, one image is not taken for all."""
    monkeypatch.setattr(estimates, "MOST_SECONDS", 0.0)
    expected = estimate(one_large, WriteOptions(), workers=1)
    assert expected.sampled == 32
    true_size = 3 * (199 * 32**2 + 1000**2)
    assert expected.size - expected.uncertainty < true_size


def test_a_build_is_refused_only_where_it_surely_does_not_fit(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    check_room(tmp_path / "a.beton", Estimate(200, 32, 2 * free, 2 * free, 1.0))
    with pytest.raises(UserError, match="needs about"):
        check_room(tmp_path / "a.beton", Estimate(200, 32, 3 * free, free // 2, 1.0))


@pytest.mark.parametrize(("seconds", "told"), [(2.0, False), (600.0, True)])
def test_the_time_is_told_where_it_is_long(
    seconds: float, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "anynet_dist"):
        check_room(tmp_path / "a.beton", Estimate(77, 77, 1000, 0, seconds))
    assert ("and 10 min" in caplog.text) == told
    assert "for 77 images" in caplog.text


def test_of_images_of_one_size_nothing_is_uncertain() -> None:
    samples = ArraySamples(np.zeros((1000, 8, 8, 3), np.uint8), np.zeros(1000, np.int64))
    expected = estimate(samples, WriteOptions(), workers=1)
    assert (expected.sampled, expected.uncertainty) == (256, 0)
