"""Files in other formats, read as their users read them: without anynet_dist."""

import io
import json
import zipfile
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from anynet_dist.config import load_config
from anynet_dist.data.beton.build import build_source
from anynet_dist.data.dataset import open_dataset
from anynet_dist.data.sources import load_source
from anynet_dist.export.exporter import export_network
from anynet_dist.export.formats import GRAPH_FORMATS
from anynet_dist.inference.trained import TrainedNetwork, open_trained
from anynet_dist.runs.network_file import load_network, read_facts, write_description, write_tensors
from anynet_dist.system.errors import UserError
from anynet_dist.training.evaluate_run import evaluate_run
from anynet_dist.training.trainer import Trainer


def normalise(images: Tensor, trained: TrainedNetwork) -> Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (trained.description.mean, trained.description.std))
    return (images - mean) / std


def metadata_of(file: Path) -> dict[str, str]:
    """What the file says of itself, by the means of its own format."""
    names = ("network", "classes", "input", "batch_norm")
    if file.suffix == ".onnx":
        return {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}
    if file.suffix == ".pt2":
        extra = dict.fromkeys(names, "")
        torch.export.load(io.BytesIO(file.read_bytes()), extra_files=extra)
        return extra
    with zipfile.ZipFile(file) as archive:
        root = archive.namelist()[0].partition("/")[0]
        return {name: archive.read(f"{root}/extra/{name}").decode() for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("to", list(GRAPH_FORMATS))
@pytest.mark.parametrize("changed", [False, True])
def test_a_file_computes_what_the_network_does_for_any_batch_size(
    trained: TrainedNetwork, to: str, changed: bool
) -> None:
    path, check = export_network(trained, to, with_normalisation=changed, fold_bn=changed)
    assert path == trained.file.parent / "export" / f"model{GRAPH_FORMATS[to].suffix}"
    assert check.max_difference < 1e-5
    function = GRAPH_FORMATS[to].read(path)
    for batch in (1, 2, 5):
        pixels = torch.rand(batch, 3, 24, 24)
        eager = trained.network(normalise(pixels, trained))
        found = function(pixels if changed else normalise(pixels, trained))
        torch.testing.assert_close(found, eager, rtol=1e-4, atol=1e-5)
    metadata = metadata_of(path)
    assert json.loads(metadata["classes"]) == ["cat", "dog", "rat"]
    assert json.loads(metadata["network"])["resolution"] == 24
    assert json.loads(metadata["input"])["shape"] == ["batch", 3, 24, 24]
    assert json.loads(metadata["input"])["values"].startswith("in 0..1" if changed else "(x - mean)")
    assert json.loads(metadata["batch_norm"]) == ("folded" if changed else "kept")
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_safetensors_is_the_same_network_with_what_was_known_of_it(
    trained: TrainedNetwork, tmp_path: Path
) -> None:
    path, check = export_network(trained, "safetensors", tmp_path / "copy.safetensors")
    assert check.max_difference == 0.0
    assert read_facts(path) == read_facts(trained.file)
    copied, description = load_network(path)
    assert description == trained.description
    weights = trained.network.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in copied.state_dict().items())


def test_safetensors_of_a_checkpoint_needs_its_run_folder_no_more(
    trained: TrainedNetwork, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "step_00000001"
    checkpoint.mkdir(parents=True)
    write_description(tmp_path / "run" / "network.json", trained.description)
    write_tensors(checkpoint / "model.safetensors", trained.network)
    (tmp_path / "elsewhere").mkdir()
    path, _ = export_network(open_trained(checkpoint), "safetensors", tmp_path / "elsewhere")
    assert path == tmp_path / "elsewhere" / "model.safetensors"
    assert load_network(path)[1] == trained.description


def test_safetensors_holds_no_changed_network(trained: TrainedNetwork) -> None:
    with pytest.raises(UserError, match=r"--fold-bn change the network: use torchscript, onnx, torch-export"):
        export_network(trained, "safetensors", fold_bn=True)


def test_an_unknown_format_is_named_with_the_nearest(trained: TrainedNetwork) -> None:
    with pytest.raises(UserError, match="unknown format 'onx'; did you mean 'onnx'"):
        export_network(trained, "onx")


def test_above_the_tolerance_nothing_is_left(trained: TrainedNetwork, tmp_path: Path) -> None:
    out = tmp_path / "out" / "model.pt"
    with pytest.raises(UserError, match=r"model\.pt is not written: .* differs .* by up to .* allowed"):
        export_network(trained, "torchscript", out, fold_bn=True, tolerance=1e-12)
    assert list(out.parent.iterdir()) == []


def test_a_network_that_gives_no_numbers_is_refused(trained: TrainedNetwork) -> None:
    with torch.no_grad():
        trained.network.head.fc.bias.fill_(float("nan"))  # type: ignore[union-attr, operator]
    with pytest.raises(UserError, match="differs from the eager one by up to nan"):
        export_network(trained, "safetensors")


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerate")
def test_onnx_of_a_digits_run_predicts_all_held_out_digits_alike(blobs_config: Path, tmp_path: Path) -> None:
    build_source(load_source("digits"), tmp_path, workers=1)
    overrides = ["--data.train", f"{tmp_path}/train.beton", "--data.test", f"{tmp_path}/val.beton"]
    overrides += ["--data.mean", "None", "--data.std", "None", "--data.augment.no-flip"]
    overrides += ["--model.num_channels", "16", "16", "32", "--optim.lr", "0.2"]
    overrides += ["--train.global_batch", "64", "--train.epochs", "12", "--eval.batch_size", "128"]
    result = Trainer(load_config(blobs_config, overrides).config).fit()
    assert result["test/top1"] > 0.8

    path, check = export_network(open_trained(tmp_path / "run"), "onnx", with_normalisation=True)
    assert check.max_difference <= check.allowed
    held_out = open_dataset(tmp_path / "val.beton")
    pixels = torch.stack(
        [torch.from_numpy(held_out.samples.image(i).copy()) for i in range(len(held_out.labels))]
    )
    images = pixels.permute(0, 3, 1, 2).float() / 255
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0]).argmax(1)

    network, description = load_network(tmp_path / "run")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (description.mean, description.std))
    with torch.inference_mode():
        eager = network((images - mean) / std).argmax(1)
    assert len(found) == 360
    assert torch.equal(found, eager)
    correct = (found == torch.from_numpy(held_out.labels)).sum().item()
    assert correct / 360 == evaluate_run(str(tmp_path / "run"), "test").record("")["top1"]
