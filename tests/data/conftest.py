"""Small data sets made of images that come with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anynet_dist.data.beton.build import build_beton, build_source
from anynet_dist.data.beton.writer import WriteOptions
from anynet_dist.data.samples import ArraySamples, FolderSamples
from anynet_dist.data.sources import load_source


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.beton (1,437 images of 32x32, raw) and val.beton (360)."""
    folder = tmp_path_factory.mktemp("digits")
    build_source(load_source("digits"), folder, workers=1)
    return folder


@pytest.fixture(scope="session")
def photo_betons(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw.beton and jpg.beton of the photos."""
    folder, samples = tmp_path_factory.mktemp("photo_betons"), FolderSamples(photos, ["china", "flower"])
    for mode in ("raw", "jpg"):
        options = WriteOptions(write_mode=mode)
        build_beton(
            samples, folder / f"{mode}.beton", classes=("china", "flower"), options=options, workers=1
        )
    return folder


@pytest.fixture
def tiny() -> ArraySamples:
    """Ten random 8x8 images of two classes."""
    images = np.random.default_rng(1).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    return ArraySamples(images, np.arange(10) % 2)


@pytest.fixture
def tiny_beton(tiny: ArraySamples, tmp_path: Path) -> Path:
    """A .beton file of them."""
    build_beton(tiny, tmp_path / "tiny.beton", classes=("even", "odd"), workers=1)
    return tmp_path / "tiny.beton"
