from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from anynet_dist.data.dataset import open_dataset
from anynet_dist.data.loaders import device as device_loader
from anynet_dist.data.transforms.augmentation import Augmentation
from anynet_dist.system.errors import UserError
from tests.data.loading import make_eval, make_train

OPTIONS: dict[str, Any] = {
    "loader": "device",
    "resolution": 32,
}


def test_images_that_do_not_fit_into_memory_are_refused(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = 2**20 / psutil.virtual_memory().available  # about a MiB, when 1,437 images take 4.2
    monkeypatch.setattr(device_loader, "MEMORY_FRACTION", share)
    with pytest.raises(UserError, match=r"needs 0\.00 GiB for the images, but may take only 0\.00 GiB"):
        make_train(digits / "train.beton", global_batch=10, seed=0, **OPTIONS)
    few: dict[str, Any] = {"indices": np.arange(100)}  # of which a subset fits
    assert len(make_train(digits / "train.beton", global_batch=10, seed=0, **few, **OPTIONS)) == 10


def test_ranks_of_one_machine_share_its_memory(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_loader, "MEMORY_FRACTION", 40 * 2**20 / psutil.virtual_memory().available)
    make_eval(digits / "train.beton", batch_size=10, local_world=2, **OPTIONS).close()
    with pytest.raises(UserError, match="for each of 64 ranks"):
        make_eval(digits / "train.beton", batch_size=10, local_world=64, **OPTIONS)


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(200):
        side = 17 if number == 100 else 16
        Image.new("RGB", (side, 16)).save(tmp_path / "a" / f"{number:03}.png")
    info = open_dataset(tmp_path)
    assert info.constant_shape == (16, 16)  # as far as the images looked at show
    with pytest.raises(UserError, match=r"100\.png: is 17x16 pixels, others are 16x16"):
        make_eval(info, batch_size=10, **OPTIONS)


def test_an_odd_last_batch_and_blocks_of_parameters_change_nothing(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    style = Augmentation(flip=True, translate=3)
    loader = make_train(digits / "train.beton", global_batch=70, seed=0, augment=style, **OPTIONS)
    whole = [images for images, _ in loader]
    monkeypatch.setattr(device_loader, "_PARAMS_AT_ONCE", 100)
    for first, second in zip(whole, loader, strict=True):
        assert torch.equal(first, second[0])


def test_no_threads_are_left(digits: Path) -> None:
    before = threading.active_count()
    loader = make_train(digits / "train.beton", global_batch=70, seed=0, workers=2, **OPTIONS)
    next(iter(loader))
    assert threading.active_count() == before
