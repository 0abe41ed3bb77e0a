from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from anynet_dist.models import build_anynet, preset_names
from anynet_dist.models.pretrained import (
    IMAGENET_MEAN,
    Source,
    import_network,
    read_source,
    timm_preset,
    torchvision_preset,
)
from anynet_dist.system.errors import UserError

SMALL: dict[str, Any] = {"num_channels": [8, 16, 32], "num_blocks_per_stage": [1, 2]}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing can be downloaded; returns the folder of torchvision's files, empty as yet."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the discard port: refused at once
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def small_weights(**changes: Any) -> dict[str, Tensor]:
    return build_anynet(**SMALL, **changes).state_dict()


def test_file_of_safetensors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "weights.safetensors"
    weights = small_weights(num_classes=7, in_channels=1)
    save_file(weights, path)
    with caplog.at_level(logging.INFO):
        source = read_source(str(path))
    assert "taking ImageNet's mean and std" in caplog.text
    assert (source.mean, source.preset, source.classes) == (IMAGENET_MEAN, None, ())
    imported = import_network(source, SMALL)
    assert imported.model == SMALL | {"num_classes": 7, "in_channels": 1}
    assert imported.difference is None
    assert all(torch.equal(tensor, weights[key]) for key, tensor in imported.network.state_dict().items())


@pytest.mark.parametrize("wrapper", [None, "model_state", "state_dict", "model"])
def test_file_of_torch_save(wrapper: str | None, tmp_path: Path) -> None:
    weights = small_weights()
    torch.save({wrapper: weights, "epoch": 1} if wrapper else weights, tmp_path / "weights.pyth")
    source = read_source(str(tmp_path / "weights.pyth"))
    assert source.state_dict.keys() == weights.keys()


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({"model": small_weights(), "bomb": Bomb(mark)}, tmp_path / "bomb.pt")
    with pytest.raises(UserError, match=r"bomb\.pt is no weight file that can be read safely"):
        read_source(str(tmp_path / "bomb.pt"))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["broken.safetensors", "broken.pt", "empty.safetensors", "empty.pt"])
def test_damaged_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if path.suffix == ".pt":
        torch.save(small_weights(), path)
    else:
        save_file(small_weights(), path)
    path.write_bytes(path.read_bytes()[: 0 if "empty" in name else 1000])
    with pytest.raises(UserError, match=name):
        read_source(str(path))


def test_plain_pickle_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "numbers.pkl").write_bytes(pickle.dumps([1, 2], protocol=2))
    with pytest.raises(UserError, match=r"numbers\.pkl"):
        read_source(str(tmp_path / "numbers.pkl"))


def test_misfit_names_the_source(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(small_weights(), path)
    with pytest.raises(
        UserError, match=r"weights\.safetensors: the weights do not fit the model:\n  stage1\.0\."
    ):
        import_network(read_source(str(path)), SMALL | {"num_channels": [8, 24, 32]})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.pth", "there is no such file; name a file of weights, or torchvision:NAME or timm:NAME"),
        ("torchvision:resnet5O", "torchvision has no network 'resnet5O'; did you mean 'resnet50'"),
        ("torchvision:resnet50.IMAGENET_V2", "of torchvision's resnet50 .*; did you mean 'IMAGENET1K_V2'"),
        pytest.param(
            "timm:regnetx_04",
            "timm has no network 'regnetx_04'; did you mean 'regnetx_",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "timm:regnetx_004.tv",
            r"unknown weights of timm's regnetx_004 'tv' .*allowed: pycls_in1k\)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_unknown_sources(source: str, message: str) -> None:
    if source.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(UserError, match=message):
        read_source(source)


def test_torchvisions_own_weights_bring_classes_and_normalisation(offline: Path) -> None:
    weights = torchvision.models.RegNet_X_400MF_Weights.IMAGENET1K_V1
    network = torchvision.models.regnet_x_400mf(weights=None)
    offline.mkdir(parents=True)
    torch.save(network.state_dict(), offline / Path(weights.url).name)  # as if downloaded before
    source = read_source("torchvision:regnet_x_400mf.IMAGENET1K_V1")
    assert source.preset == "regnetx_400mf_tv"
    assert source.classes[:2] == ("tench", "goldfish")
    assert (source.mean, source.resolution) == (IMAGENET_MEAN, 224)
    imported = import_network(source, {"preset": source.preset})
    assert imported.difference == 0.0
    assert imported.model == {"preset": "regnetx_400mf_tv", "num_classes": 1000}


def test_torchvision_without_a_connection(offline: Path) -> None:
    with pytest.raises(
        UserError, match=r"could not load its weights of resnet18 \(.*refused.*import it by its path"
    ):
        read_source("torchvision:resnet18")


@pytest.mark.slow
def test_timm_without_a_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="timm could not load its weights of regnetx_002"):
        read_source("timm:regnetx_002")


def test_weights_that_fit_a_network_that_computes_something_else() -> None:
    theirs = build_anynet(**SMALL, strides=1)
    source = Source(name="strided", state_dict=theirs.state_dict(), network=theirs)
    assert import_network(source, SMALL | {"strides": 1}).difference == 0.0
    with pytest.raises(
        UserError, match="strided: its weights fit the model, but its outputs differ by up to"
    ):
        import_network(source, SMALL | {"strides": 2})


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (torchvision_preset("regnet_x_400mf"), "regnetx_400mf_tv"),
        (torchvision_preset("regnet_x_800mf"), "regnetx_800mf"),
        (torchvision_preset("resnext50_32x4d"), "resnext50_32x4d"),
        (torchvision_preset("regnet_y_128gf"), "regnety_128gf"),
        (torchvision_preset("efficientnet_b0"), None),
        (timm_preset("regnetx_004"), "regnetx_400mf"),
        (timm_preset("regnetx_004_tv"), "regnetx_400mf_tv"),
        (timm_preset("regnety_032"), "regnety_3_2gf"),
        (timm_preset("regnety_080_tv"), "regnety_8gf_tv"),
        (timm_preset("regnetx_320"), "regnetx_32gf"),
        (timm_preset("resnet50"), "resnet50"),
        (timm_preset("resnet50d"), None),
    ],
)
def test_their_names_and_ours(ours: str | None, expected: str | None) -> None:
    assert ours == expected
    assert ours is None or ours in preset_names()
