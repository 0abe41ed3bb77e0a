"""What comes with a network that is loaded, and networks from the Hub's cache. Nothing is downloaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anynet_dist import build_anynet, load_model
from anynet_dist.export.hub import write_hub_folder
from anynet_dist.inference.predict import predict
from anynet_dist.inference.trained import TrainedNetwork
from anynet_dist.system.errors import UserError
from tests.conftest import PATIENCE, Start


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_loaded_network_names_its_classes_and_prepares_images(network_file: Path, photo: Path) -> None:
    network = load_model(network_file)
    assert network.classes == ("cat", "dog", "rat")
    images = network.preprocess(photo)[None]
    assert images.shape == (1, 3, 24, 24)
    with torch.no_grad():
        probabilities = network(images).softmax(1)[0]
    (prediction,) = predict(network_file, [photo], top=3)
    for guess in prediction.guesses:
        assert network.classes[guess.index] == guess.name
        assert float(probabilities[guess.index]) == pytest.approx(guess.probability, abs=1e-6)


def test_files_pillow_images_and_arrays_are_prepared_alike(network_file: Path, photo: Path) -> None:
    network = load_model(network_file)
    expected = network.preprocess(photo)
    with Image.open(photo) as image:
        assert torch.equal(network.preprocess(image), expected)
        assert torch.equal(network.preprocess(np.asarray(image)), expected)
        grey = image.convert("L")
    assert network.preprocess(grey).shape == (3, 24, 24)


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), torch.zeros(3, 4, 4)])
def test_what_is_no_image_is_refused(network_file: Path, image: object) -> None:
    with pytest.raises(
        UserError, match=r"an image is a file, a Pillow image or an array \(H, W, 3\) of uint8"
    ):
        load_model(network_file).preprocess(image)


def test_a_file_that_is_no_image_is_named(network_file: Path) -> None:
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read as an image"):
        load_model(network_file).preprocess(network_file)


def test_a_network_that_was_built_knows_no_images() -> None:
    network = build_anynet(num_channels=[8, 8], num_blocks_per_stage=[1], num_classes=3)
    assert network.classes == ()
    with pytest.raises(UserError, match="not loaded from a file"):
        network.preprocess("photo.png")


@pytest.fixture
def hub_cache(trained: TrainedNetwork, tmp_path: Path) -> Path:
    """The Hub's cache, with the network as pets/small, laid out as its client does."""
    folder, _ = write_hub_folder(trained, tmp_path / "hub")
    repository, commit = tmp_path / "cache" / "models--pets--small", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(folder, repository / "snapshots" / commit)
    return tmp_path / "cache"


@pytest.mark.slow
def test_a_network_of_the_hub_by_its_name(hub_cache: Path, photo: Path, start: Start) -> None:
    offline = {"HF_HUB_CACHE": str(hub_cache), "HF_HUB_OFFLINE": "1"}
    process = start("predict", "hf:pets/small", photo, **offline)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert "cat" in output
    process = start("predict", "hf:pets/large", photo, **offline)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "hf:pets/large: the Hub is not reached and its cache has no copy" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_hub_that_is_not_there_is_one_sentence(tmp_path: Path, photo: Path, start: Start) -> None:
    nowhere = {
        "HF_HUB_CACHE": str(tmp_path / "empty"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "0",
    }
    process = start("predict", "hf:pets/small", photo, **nowhere)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "hf:pets/small: the Hub is not reached and its cache has no copy" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("name", ["hf:small", "hf:a/b/c", "hf:"])
def test_names_that_no_repository_has(name: str) -> None:
    with pytest.raises(UserError, match="write hf:OWNER/NAME"):
        load_model(name)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="hf:pets/small needs huggingface_hub: pip install huggingface_hub"):
        load_model("hf:pets/small")
