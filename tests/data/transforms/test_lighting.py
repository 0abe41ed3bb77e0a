"""Noise on the colours: what it adds, and that every loader adds the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anynet_dist.data.loaders.factory import ffcv_installed
from anynet_dist.data.loaders.names import LoaderName
from anynet_dist.data.transforms.augmentation import Augmentation
from anynet_dist.data.transforms.lighting import COMPONENTS, DEVIATIONS, Lighting
from anynet_dist.system.errors import UserError
from tests.data.loading import make_train

STD = (0.2, 0.25, 0.3)


def batches(path: Path, strength: float, epoch: int = 0, first: int = 0, **options: object) -> list[Tensor]:
    loader = make_train(
        path,
        **{
            "global_batch": 4,
            "seed": 3,
            "resolution": 8,
            "mean": (0.5, 0.5, 0.5),
            "std": STD,
            "workers": 1,
            "loader": "torch",
            "augment": Augmentation(flip=True, lighting=strength),
            **options,
        },
    )
    loader.set_epoch(epoch, first)
    found = [images.clone() for images, _ in loader]
    loader.close()
    return found


def test_colours_vary_along_the_principal_components() -> None:
    shifts = Lighting(0.1, (1, 1, 1), seed=0).shifts(0, np.arange(200_000)).astype(np.float64)
    expected = COMPONENTS @ np.diag((0.1 * DEVIATIONS) ** 2) @ COMPONENTS.T
    np.testing.assert_allclose(np.cov(shifts.T), expected, rtol=0.02)
    assert np.abs(shifts.mean(0)).max() < 2e-4
    kurtosis = (shifts[:, 0] ** 4).mean() / (shifts[:, 0] ** 2).mean() ** 2
    assert kurtosis == pytest.approx(3, abs=0.1)  # of a normal distribution


def test_each_image_is_shifted_as_a_whole_and_differently_in_each_epoch(tiny_beton: Path) -> None:
    first = torch.cat(batches(tiny_beton, 1.0, epoch=0)) - torch.cat(batches(tiny_beton, 0.0, epoch=0))
    flat = first.flatten(2)
    torch.testing.assert_close(flat, flat.mean(2, keepdim=True).expand_as(flat), rtol=0, atol=1e-5)
    assert flat[:, 0, 0].unique().numel() == len(flat)
    later = torch.cat(batches(tiny_beton, 1.0, epoch=1)) - torch.cat(batches(tiny_beton, 0.0, epoch=1))
    assert not torch.isclose(later[:, 0, 0, 0], first[:, 0, 0, 0]).any()


def test_the_shift_is_in_units_of_the_normalisation(tiny_beton: Path) -> None:
    wide = torch.cat(batches(tiny_beton, 1.0)) - torch.cat(batches(tiny_beton, 0.0))
    unit: dict[str, Any] = {"std": (1.0, 1.0, 1.0)}
    plain = torch.cat(batches(tiny_beton, 1.0, **unit)) - torch.cat(batches(tiny_beton, 0.0, **unit))
    torch.testing.assert_close(wide * torch.tensor(STD).view(3, 1, 1), plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("loader", ["device", "ffcv"])
def test_every_loader_adds_the_same(tiny_beton: Path, loader: LoaderName) -> None:
    if loader == "ffcv" and not ffcv_installed():
        pytest.skip("needs FFCV")
    expected = batches(tiny_beton, 0.5)
    for other, images in zip(batches(tiny_beton, 0.5, loader=loader), expected, strict=True):
        assert torch.equal(other, images)


def test_a_resumed_epoch_and_other_ranks_see_the_same_images(tiny_beton: Path) -> None:
    whole = batches(tiny_beton, 0.5, epoch=2)
    assert torch.equal(batches(tiny_beton, 0.5, epoch=2, first=1)[0], whole[1])
    ranks = [batches(tiny_beton, 0.5, epoch=2, rank=rank, world=2) for rank in (0, 1)]
    seen = {image.numpy().tobytes() for rank in ranks for batch in rank for image in batch}
    assert seen == {image.numpy().tobytes() for batch in whole for image in batch}


def test_a_negative_deviation_is_refused() -> None:
    with pytest.raises(UserError, match="lighting: input should be greater"):
        Augmentation(lighting=-0.1)
