"""Checkpoints as timm's train.py, torchvision's reference scripts and others write them."""

from __future__ import annotations

import argparse
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from anynet_dist.models import build_anynet
from anynet_dist.models.checkpoint_files import choose_weights, read_checkpoint
from anynet_dist.models.convert import our_names
from anynet_dist.models.pretrained import import_network, read_source
from anynet_dist.system.errors import UserError


def timm() -> Any:
    """Imported by the tests that need it: that takes seconds."""
    return pytest.importorskip("timm")


def with_statistics(network: nn.Module, shift: float = 0.0) -> nn.Module:
    """The network with batch norms that differ from each other, so that what they do can be seen."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                assert tensor is not None
                tensor.copy_(torch.rand_like(tensor) / 2 + 0.5 + shift)
    return network


def timm_checkpoint(folder: Path, name: str, **args: Any) -> tuple[Path, nn.Module, nn.Module]:
    """A file of timm's CheckpointSaver, and the two networks in it: as trained, and its average."""
    kwargs = args.get("model_kwargs", {})
    network = with_statistics(timm().create_model(name, num_classes=10, **kwargs))
    average = timm().utils.ModelEmaV3(network)
    with_statistics(average.module, shift=0.5)
    options = argparse.Namespace(
        model=name, gp=None, bn_eps=None, img_size=None, input_size=None, mean=None, std=None, crop_pct=None
    )
    vars(options).update(args)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    saver = timm().utils.CheckpointSaver(
        network,
        optimizer,
        args=options,
        model_ema=average,
        checkpoint_dir=str(folder),
        recovery_dir=str(folder),
    )
    saver.save_checkpoint(3, metric=np.float64(71.5))
    return folder / "last.pth.tar", network, average.module


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    images = torch.randn(2, 3, 65, 65)
    with torch.no_grad():
        assert torch.equal(ours.eval()(images), theirs.eval()(images))


@pytest.mark.slow
def test_timms_training_checkpoint_names_its_network_and_keeps_an_average(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, network, average = timm_checkpoint(tmp_path, "regnetx_002", mean=(0.5, 0.4, 0.3), img_size=160)
    with caplog.at_level(logging.INFO):
        source = read_source(str(path))
    assert "taking the weights from the checkpoint's 'state_dict_ema'" in caplog.text
    assert (source.preset, source.mean, source.resolution) == ("regnetx_200mf", (0.5, 0.4, 0.3), 160)
    imported = import_network(source, {"preset": source.preset})
    assert imported.difference == 0.0
    assert imported.model["num_classes"] == 10
    assert_same(imported.network, average)
    raw = import_network(read_source(str(path), "raw"), {"preset": "regnetx_200mf"})
    assert_same(raw.network, network)


@pytest.mark.slow
def test_what_fits_but_computes_something_else_by_the_scripts_options_is_refused(tmp_path: Path) -> None:
    path, _, _ = timm_checkpoint(tmp_path, "resnet18", model_kwargs={"output_stride": 16})
    with pytest.raises(UserError, match="its weights fit the model, but its outputs differ by up to"):
        import_network(read_source(str(path)), {"preset": "resnet18"})


@pytest.mark.slow
def test_another_network_of_the_same_shapes_is_refused_by_its_name(tmp_path: Path) -> None:
    path, _, _ = timm_checkpoint(tmp_path, "resnetblur50")
    source = read_source(str(path))
    assert source.preset is None
    with pytest.raises(UserError, match="its weights fit the model, but its outputs differ by up to"):
        import_network(source, {"preset": "resnet50"})


@pytest.mark.slow
def test_options_that_could_read_other_files_are_not_passed_on(tmp_path: Path) -> None:
    path, _, _ = timm_checkpoint(tmp_path, "resnet18")
    checkpoint: Any = read_checkpoint(path)
    checkpoint["args"].model_kwargs = {"checkpoint_path": "/anything"}
    torch.save(checkpoint, path)
    with pytest.raises(
        UserError, match=r"resnet18 changed by checkpoint_path='/anything', which is not known"
    ):
        read_source(str(path))


@pytest.mark.slow
def test_options_of_another_network_are_not_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, network, _ = timm_checkpoint(tmp_path, "resnet18")
    checkpoint: Any = read_checkpoint(path)
    checkpoint["args"].model = "resnet34"
    torch.save(checkpoint, path)
    source = read_source(str(path), "raw")
    assert "it claims to be timm's resnet34, but its weights are not" in caplog.text
    assert source.description is None
    assert_same(import_network(source, {"preset": "resnet18"}).network, network)


def torchvision_checkpoint(path: Path) -> tuple[nn.Module, nn.Module]:
    """As references/classification/train.py saves it, with --model-ema."""
    network = with_statistics(torchvision.models.resnet18(num_classes=10))
    average = torch.optim.swa_utils.AveragedModel(network, use_buffers=True)
    average.update_parameters(network)
    with_statistics(average.module, shift=0.5)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=5)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], milestones=[5])
    args = argparse.Namespace(
        data_path="/data",
        model="resnet18",
        device="cuda",
        val_resize_size=232,
        val_crop_size=176,
        weights=None,
    )
    checkpoint = {
        "model": {f"module.{key}": tensor for key, tensor in network.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "epoch": 9,
        "args": args,
        "model_ema": average.state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
    }
    torch.save(checkpoint, path)
    return network, average.module


@pytest.mark.slow
def test_torchvisions_training_checkpoint(tmp_path: Path) -> None:
    network, average = torchvision_checkpoint(tmp_path / "checkpoint.pth")
    for weights, theirs in (("raw", network), ("ema", average), ("best", average)):
        source = read_source(str(tmp_path / "checkpoint.pth"), weights)  # type: ignore[arg-type]
        assert (source.preset, source.resolution) == ("resnet18", 176)
        assert source.crop_ratio == pytest.approx(176 / 232)
        imported = import_network(source, {"preset": "resnet18"})
        assert imported.difference == 0.0
        assert_same(imported.network, theirs)


@pytest.mark.slow
def test_timms_folder_for_the_hub_names_network_and_classes(tmp_path: Path) -> None:
    network = with_statistics(timm().create_model("resnet18", num_classes=2))
    config = {"architecture": "resnet18", "num_classes": 2, "label_names": ["cat", "dog"]}
    config["pretrained_cfg"] = {
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "input_size": [3, 128, 128],
        "crop_pct": 0.9,
    }
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = read_source(str(tmp_path / "model.safetensors"))
    assert (source.preset, source.classes) == ("resnet18", ("cat", "dog"))
    assert (source.mean, source.std, source.resolution, source.crop_ratio) == (
        (0.5,) * 3,
        (0.25,) * 3,
        128,
        0.9,
    )
    assert import_network(source, {"preset": "resnet18"}).difference == 0.0


def test_where_nothing_says_what_is_computed_the_log_says_what_was_compared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "a.pth")
    import_network(read_source(str(tmp_path / "a.pth")), {"preset": "resnet18"})
    assert "only names and shapes were compared" in caplog.text


@pytest.mark.parametrize(
    "value",
    [
        np.float64(1.5),
        np.float32(1.5),
        np.int64(3),
        np.bool_(True),
        np.arange(3.0),
        Path("somewhere"),
        argparse.Namespace(inner=argparse.Namespace(lr=np.float32(0.1))),
        torch.device("cpu"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_values_beside_the_weights(value: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "metric": value}, tmp_path / "a.pt")
    read: Any = read_checkpoint(tmp_path / "a.pt")
    assert str(read["metric"]) == str(value)


def test_files_of_older_versions_of_torch_and_numpy(tmp_path: Path) -> None:
    checkpoint = {"state_dict": {"a": torch.ones(1)}, "metric": np.float64(1.5)}
    torch.save(checkpoint, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "a.pt").read_bytes()
    assert b"numpy._core.multiarray" in data
    (tmp_path / "a.pt").write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    read: Any = read_checkpoint(tmp_path / "a.pt")
    assert read["metric"] == 1.5


class Meter:
    """An object of somebody's own."""


def test_the_object_in_the_way_is_named_in_one_plain_sentence(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(1)}, "meter": Meter()}, tmp_path / "meter.pth")
    torch.save(torchvision.models.resnet18(), tmp_path / "whole.pth")
    for name, kind in (
        ("meter", rf"{Meter.__module__}\.Meter"),
        ("whole", r"torchvision\.models\.resnet\.ResNet"),
    ):
        with pytest.raises(UserError, match=rf"holds an object of the kind {kind}, which only") as refused:
            read_checkpoint(tmp_path / f"{name}.pth")
        message = str(refused.value)
        assert "\x1b" not in message
        assert "\n" not in message
        assert "weights_only" not in message
        assert "add_safe_globals" not in message


def test_torchscript_is_named(tmp_path: Path) -> None:
    with pytest.warns((DeprecationWarning, FutureWarning), match="torch.jit"):
        torch.jit.script(nn.Linear(1, 1)).save(str(tmp_path / "script.pt"))
    with pytest.raises(UserError, match="holds a TorchScript program, which only running code could load"):
        read_checkpoint(tmp_path / "script.pt")


def test_other_pickles_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": Meter()}, protocol=4))
    with pytest.raises(UserError, match=r"a\.pkl is no(t a complete)? weight file"):
        read_checkpoint(tmp_path / "a.pkl")


def state(value: float) -> dict[str, Tensor]:
    return {"a": torch.tensor([value])}


@pytest.mark.parametrize(
    ("weights", "errors", "expected"),
    [
        ("best", {"test_err": 26.0, "ema_err": 25.0}, 2.0),
        ("best", {"test_err": np.float64(24.0), "ema_err": 25.0}, 1.0),
        ("best", {"test_err": 24.0, "test_ema_err": 25.0}, 1.0),
        ("best", {}, 2.0),
        ("raw", {"test_err": 26.0, "ema_err": 25.0}, 1.0),
        ("ema", {"test_err": 24.0, "ema_err": 25.0}, 2.0),
    ],
)
@pytest.mark.parametrize(
    ("raw", "average"),
    [("model_state", "ema_state"), ("state_dict", "state_dict_ema"), ("model", "model_ema")],
)
def test_the_better_weights_or_those_asked_for(
    raw: str, average: str, weights: Any, errors: dict[str, float], expected: float
) -> None:
    checkpoint = {raw: state(1.0), average: {"n_averaged": torch.tensor(3), **state(2.0)}, **errors}
    assert choose_weights(checkpoint, weights) == state(expected)


def test_weights_that_are_not_there_are_not_replaced_by_others() -> None:
    with pytest.raises(UserError, match="there is no moving average of the weights here"):
        choose_weights({"model": state(1.0)}, "ema")
    with pytest.raises(UserError, match="there is only a moving average"):
        choose_weights({"model_ema": state(1.0)}, "raw")
    assert choose_weights({"n_averaged": torch.tensor(3), **state(2.0)}, "ema") == state(2.0)


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "net.", "backbone.", "_orig_mod.module.", "model.module."]
)
def test_prefixes_of_what_was_around_the_network(prefix: str) -> None:
    weights = build_anynet(preset="resnet20", num_classes=3).state_dict()
    assert set(our_names(f"{prefix}{key}" for key in weights)) == set(weights)
    theirs = torchvision.models.resnet18().state_dict()
    assert "stage1.0.conv1.weight" in our_names(f"{prefix}{key}" for key in theirs)


@pytest.mark.slow
def test_a_resnet_d_is_called_one(tmp_path: Path) -> None:
    torch.save(timm().create_model("resnet18d", num_classes=10).state_dict(), tmp_path / "d.pth")
    with pytest.raises(UserError, match=r"d\.pth: this is a ResNet-D \(a stem of three 3x3 convolutions and"):
        read_source(str(tmp_path / "d.pth"))
