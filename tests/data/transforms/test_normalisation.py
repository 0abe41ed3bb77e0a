"""Channels without a deviation: data with one trains, and what it leaves predicts and exports."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anynet_dist.config import load_config
from anynet_dist.data.beton.build import build_beton
from anynet_dist.data.beton.sidecar import sidecar_path
from anynet_dist.data.dataset import open_dataset
from anynet_dist.data.loaders.transfer import Transfer
from anynet_dist.data.samples import ArraySamples
from anynet_dist.data.transforms.normalisation import check_normalisation, scale
from anynet_dist.export.exporter import export_network
from anynet_dist.inference.predict import predict
from anynet_dist.inference.trained import open_trained
from anynet_dist.runs.network_file import load_network
from anynet_dist.system.errors import UserError
from anynet_dist.training.trainer import Trainer

LOADERS = ["torch", "device", *(["ffcv"] if importlib.util.find_spec("ffcv") else [])]


@pytest.fixture
def no_blue(tmp_path: Path) -> Path:
    """A .beton file of 48 noisy images, 16x16, of three classes, without any blue."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 16, 16, 3), dtype=np.uint8)
    pixels[..., 2] = 0
    samples = ArraySamples(pixels, np.arange(48) % 3)
    build_beton(samples, tmp_path / "no_blue.beton", classes=("a", "b", "c"), workers=1)
    return tmp_path / "no_blue.beton"


def test_a_constant_channel_is_not_scaled_and_that_is_told_once(
    no_blue: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "anynet_dist.data.dataset"):
        train = open_dataset(no_blue)
        open_dataset(no_blue, classes=train.classes)
    assert train.std is not None
    assert train.std[2] == 1
    assert train.std[:2] == pytest.approx((0.29, 0.29), abs=0.01)
    (message,) = caplog.messages
    assert message.startswith(f"{no_blue}: its images are constant in blue, which is not scaled (std 1)")


@pytest.mark.parametrize("measured", [0.0, 3.5e-9])
def test_a_sidecar_with_no_deviation_but_rounding_errors_counts_as_constant(
    no_blue: Path, measured: float
) -> None:
    content = json.loads(sidecar_path(no_blue).read_text())
    content["std"] = [measured] * 3
    sidecar_path(no_blue).write_text(json.dumps(content))
    assert open_dataset(no_blue).std == (1, 1, 1)


def test_a_small_deviation_is_kept() -> None:
    assert scale((0.001, 0.2, 1e-5)) == (0.001, 0.2, 1)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("loader", LOADERS)
def test_data_with_a_constant_channel_trains_predicts_and_exports(
    loader: str, no_blue: Path, blobs_config: Path, tmp_path: Path
) -> None:
    overrides = ["--data.train", str(no_blue), "--data.test", str(no_blue), "--data.loader", loader]
    overrides += ["--data.mean", "None", "--data.std", "None", "--train.epochs", "1"]
    result = Trainer(load_config(blobs_config, overrides).config).fit()
    assert np.isfinite(result["test/loss"])
    network, description = load_network(tmp_path / "run")
    assert description.std[2] == 1
    assert all(bool(value.isfinite().all()) for value in network.state_dict().values())
    Image.new("RGB", (16, 16), (200, 10, 0)).save(tmp_path / "red.png")
    (prediction,) = predict(tmp_path / "run", [tmp_path / "red.png"])
    assert sum(guess.probability for guess in prediction.guesses) == pytest.approx(1)
    _, check = export_network(open_trained(tmp_path / "run"), "torchscript", with_normalisation=True)
    assert check.max_difference <= check.allowed


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.5,) * 3, (0.2, 0.2, 0)),
        ((0.5,) * 3, (0.2, 0.2, -1)),
        ((0.5,) * 3, (0.2, 0.2, 1e-300)),
        ((0.5,) * 3, (0.2, 0.2, float("nan"))),
        ((0.5,) * 3, (0.2, 0.2, float("inf"))),
        ((0.5, 0.5, 124.0), (0.2,) * 3),
        ((0.5, 0.5, float("nan")), (0.2,) * 3),
    ],
)
def test_what_cannot_normalise_is_refused_with_the_remedy(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    for use in (check_normalisation, lambda *numbers: Transfer(torch.device("cpu"), *numbers)):
        with pytest.raises(UserError, match=r"set data\.mean and data\.std; a std of 1 leaves a constant"):
            use(mean, std)
