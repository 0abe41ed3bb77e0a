"""Weights for networks of torchvision, timm and pycls, read as their users read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml
from torch import Tensor, nn

from anynet_dist.export.exporter import export_network, export_timm_folder
from anynet_dist.inference.trained import TrainedNetwork, open_trained
from anynet_dist.models.anynet import build_anynet
from anynet_dist.runs.network_file import NetworkDescription, save_network
from anynet_dist.system.errors import UserError
from tests.conftest import randomise_norms

RESNET18 = {
    "block_type": "basic",
    "num_blocks_per_stage": 2,
    "num_channels": [64, 64, 128, 256, 512],
    "strides": [1, 2, 2, 2],
    "stem": "conv7x7_s2_maxpool",
    "num_classes": 3,
}
SMALL = {"num_channels": [8, 8, 16], "num_blocks_per_stage": [1, 2], "num_classes": 3}


def trained_network(folder: Path, model: dict[str, Any]) -> TrainedNetwork:
    torch.manual_seed(0)
    network = build_anynet(**model)
    randomise_norms(network)
    nn.init.normal_(network.head.fc.weight, std=1.0)  # type: ignore[union-attr, arg-type]
    description = NetworkDescription(
        model=model,
        classes=("cat", "dog", "rat"),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.3),
        resolution=64,
        crop_ratio=0.875,
    )
    save_network(folder / "model.safetensors", network, description)
    return open_trained(folder / "model.safetensors")


def assert_same(theirs: nn.Module, trained: TrainedNetwork, side: int = 64) -> None:
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = trained.network(images)
        assert expected.std() > 0
        assert (theirs.eval()(images) - expected).abs().max() == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "name"),
    [
        (RESNET18, "resnet18"),  # described in numbers, not by its name
        ({"preset": "regnetx_400mf_tv", "num_classes": 3}, "regnet_x_400mf"),
        ({"preset": "regnety_400mf", "num_classes": 3}, "regnet_y_400mf"),
    ],
)
def test_torchvision_takes_the_state_dict(tmp_path: Path, model: dict[str, Any], name: str) -> None:
    trained = trained_network(tmp_path, model)
    path, check = export_network(trained, "torchvision")
    assert (path.name, check.max_difference) == ("model.pth", 0.0)
    theirs = torchvision.models.get_model(name, weights=None, num_classes=3)
    theirs.load_state_dict(torch.load(path, weights_only=True))
    assert_same(theirs, trained)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "name"),
    [(RESNET18, "resnet18"), ({"preset": "regnety_400mf", "num_classes": 3}, "regnety_004")],
)
def test_timm_creates_the_network_from_the_folder(tmp_path: Path, model: dict[str, Any], name: str) -> None:
    timm = pytest.importorskip("timm")
    trained = trained_network(tmp_path, model)
    folder, check = export_timm_folder(trained)
    assert check.max_difference == 0.0
    assert {file.name for file in folder.iterdir()} == {"model.safetensors", "config.json"}
    assert json.loads((folder / "config.json").read_text())["architecture"] == name
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert_same(theirs, trained)
    prepared = timm.data.resolve_model_data_config(theirs)
    assert tuple(prepared["input_size"]) == (3, 64, 64)
    assert tuple(prepared["mean"]) == (0.5, 0.4, 0.3)
    assert tuple(prepared["std"]) == (0.2, 0.25, 0.3)
    assert prepared["crop_pct"] == 0.875
    assert tuple(theirs.pretrained_cfg["label_names"]) == ("cat", "dog", "rat")
    other = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=5)
    assert other(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


@pytest.mark.slow
def test_a_timm_folder_is_not_replaced_unasked(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    trained = trained_network(tmp_path, RESNET18)
    folder, _ = export_timm_folder(trained)
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"config\.json exist already"):
        export_timm_folder(trained)
    assert (folder / "model.safetensors").read_bytes() == before
    export_timm_folder(trained, overwrite=True)


class PyclsTransform(nn.Module):
    """pycls' bottleneck transformation: its layers and their names."""

    def __init__(self, width_in: int, width: int, stride: int, groups: int, se_ratio: float) -> None:
        super().__init__()
        self.a, self.a_bn = nn.Conv2d(width_in, width, 1, bias=False), nn.BatchNorm2d(width)
        self.b = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.b_bn = nn.BatchNorm2d(width)
        squeezed = round(width_in * se_ratio)
        self.se = nn.Module()
        self.se.f_ex = nn.Sequential(
            nn.Conv2d(width, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, width, 1), nn.Sigmoid()
        )
        self.c, self.c_bn = nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a_bn(self.a(x)).relu()
        x = self.b_bn(self.b(x)).relu()
        x = x * self.se.f_ex(x.mean((2, 3), keepdim=True))  # type: ignore[operator]
        out: Tensor = self.c_bn(self.c(x))
        return out


class PyclsBlock(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.projects = width_in != width or stride > 1
        if self.projects:
            self.proj = nn.Conv2d(width_in, width, 1, stride, bias=False)
            self.bn = nn.BatchNorm2d(width)
        self.f = PyclsTransform(width_in, width, stride, width // 4, 0.25)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.bn(self.proj(x)) if self.projects else x
        out: Tensor = (shortcut + self.f(x)).relu()
        return out


class PyclsNetwork(nn.Module):
    """A RegNetY as pycls names it, of stages of one and two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv, self.stem.bn = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.s1, self.s2 = nn.Module(), nn.Module()
        self.s1.b1 = PyclsBlock(8, 8, 2)
        self.s2.b1, self.s2.b2 = PyclsBlock(8, 16, 2), PyclsBlock(16, 16, 1)
        self.head = nn.Module()
        self.head.fc = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem.bn(self.stem.conv(images)).relu()  # type: ignore[operator]
        x = self.s2.b2(self.s2.b1(self.s1.b1(x)))  # type: ignore[operator]
        out: Tensor = self.head.fc(x.mean((2, 3)))  # type: ignore[operator]
        return out


def test_pycls_takes_the_checkpoint_for_images_in_bgr(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = trained_network(tmp_path, {**SMALL, "group_width": 4, "se_ratio": 0.25})
    path, check = export_network(trained, "pycls")
    assert (path.name, check.max_difference) == ("model.pyth", 0.0)
    assert "ImageNet normalises by ImageNet's mean" in caplog.text
    checkpoint = torch.load(path, weights_only=True)
    theirs = PyclsNetwork()
    theirs.load_state_dict(checkpoint["model_state"])
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            theirs.eval()(images.flip(1)), trained.network(images), rtol=1e-5, atol=1e-5
        )
    config = yaml.safe_load(checkpoint["cfg"])
    assert config["MODEL"] == {"TYPE": "anynet", "NUM_CLASSES": 3}
    assert config["ANYNET"] == {
        "STEM_TYPE": "simple_stem_in",
        "STEM_W": 8,
        "BLOCK_TYPE": "res_bottleneck_block",
        "DEPTHS": [1, 2],
        "WIDTHS": [8, 16],
        "STRIDES": [2, 2],
        "SE_ON": True,
        "SE_R": 0.25,
        "BOT_MULS": [1.0, 1.0],
        "GROUP_WS": [4, 4],
    }
    assert (config["TRAIN"]["IM_SIZE"], config["TEST"]["IM_SIZE"]) == (64, 73)


@pytest.mark.parametrize("block", ["basic", "vanilla"])
def test_pycls_has_other_blocks_too(tmp_path: Path, block: str) -> None:
    trained = trained_network(tmp_path, {**SMALL, "block_type": block})
    path, _ = export_network(trained, "pycls")
    state = torch.load(path, weights_only=True)["model_state"]
    assert len(state) == len(trained.network.state_dict())
    assert ("s2.b2.a.weight" if block == "vanilla" else "s2.b2.f.a.weight") in state


@pytest.mark.parametrize("to", ["torchvision", "pycls"])
def test_a_network_that_is_not_there_is_refused(tmp_path: Path, to: str) -> None:
    trained = trained_network(tmp_path, {**SMALL, "block_type": "inception"})
    with pytest.raises(UserError, match=f"{to} has no network with this stem.* use --to onnx"):
        export_network(trained, to)
    assert not (tmp_path / "export" / "model.pth").exists()


@pytest.mark.slow
def test_a_network_that_timm_has_not_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    with pytest.raises(UserError, match="timm has no network"):
        export_timm_folder(trained_network(tmp_path, SMALL))
    assert not (tmp_path / "export").exists()
