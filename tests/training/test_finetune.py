from pathlib import Path

import pytest
import torch

from anynet_dist import build_anynet, load_model
from anynet_dist.config import load_config
from anynet_dist.runs.network_file import NetworkDescription, save_network
from anynet_dist.system.errors import UserError
from anynet_dist.training.finetune import load_pretrained
from anynet_dist.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

BLOBS = {"num_blocks_per_stage": [1, 1], "num_channels": [8, 8, 16], "strides": [1, 2], "stem": "conv3x3_s2"}


def trained(folder: Path, **changes: object) -> Path:
    description = {**BLOBS, "num_classes": 7, **changes}
    torch.manual_seed(1)
    network = build_anynet(**description)
    save_network(folder / "trained.safetensors", network, NetworkDescription(model=description))
    return folder / "trained.safetensors"


def test_a_body_is_taken_over_and_a_head_for_other_classes_is_new(tmp_path: Path) -> None:
    source = trained(tmp_path)
    network = build_anynet(**BLOBS, num_classes=3)
    head = {name: tensor.clone() for name, tensor in network.head.state_dict().items()}
    load_pretrained(network, str(source))
    theirs, ours = load_model(source).state_dict(), network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if not name.startswith("head."))
    assert all(torch.equal(network.head.state_dict()[name], head[name]) for name in head)


def test_a_head_for_as_many_classes_is_taken_over_too(tmp_path: Path) -> None:
    source = trained(tmp_path)
    network = build_anynet(**BLOBS, num_classes=7)
    load_pretrained(network, str(source))
    theirs = load_model(source).state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in network.state_dict().items())


def test_another_width_is_named_with_both_shapes(tmp_path: Path) -> None:
    source = trained(tmp_path, num_channels=[8, 8, 32])
    with pytest.raises(UserError, match=r"has stage2\.0\.\S+ of shape \(32, .*this network \(16, "):
        load_pretrained(build_anynet(**BLOBS, num_classes=3), str(source))


def test_another_depth_is_named(tmp_path: Path) -> None:
    source = trained(tmp_path, num_blocks_per_stage=[1, 2])
    with pytest.raises(UserError, match=r"is another network: it also has stage2\.1\."):
        load_pretrained(build_anynet(**BLOBS, num_classes=3), str(source))


def test_plug_ins_that_the_trained_network_names_do_not_run(tmp_path: Path) -> None:
    plugin = tmp_path / "stem.py"
    plugin.write_text("from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n")
    description = {**BLOBS, "num_classes": 7}
    described = NetworkDescription(model={**description, "stem": "not_registered"}, plugins=["stem.py"])
    save_network(tmp_path / "trained.safetensors", build_anynet(**description), described)
    message = rf"model\.pretrained: .* to be run: {plugin}; read it, then name it under plugins:"
    with pytest.raises(UserError, match=message):
        load_pretrained(build_anynet(**description), str(tmp_path / "trained.safetensors"))
    assert not plugin.with_suffix(".ran").exists()


@pytest.mark.parametrize("precise", ["0", "48"])
def test_frozen_parts_stay_as_they_were_batch_norm_included(
    blobs_config: Path, tmp_path: Path, precise: str
) -> None:
    source = trained(tmp_path)
    frozen = ("--model.freeze", "stem", "stage1")
    options = ("--model.pretrained", str(source), *frozen, "--eval.precise_bn", precise)
    Trainer(load_config(blobs_config, options).config).fit()
    before, after = load_model(source).state_dict(), load_model(tmp_path / "run").state_dict()
    for name in before:
        if name.startswith(("stem.", "stage1.")):
            assert torch.equal(before[name], after[name]), name
    assert not torch.equal(before["stage2.0.conv1.weight"], after["stage2.0.conv1.weight"])


def test_a_part_that_does_not_exist_is_refused(blobs_config: Path) -> None:
    config = load_config(blobs_config, ["--model.freeze", "stage3"]).config
    with pytest.raises(UserError, match="'stage3'; did you mean 'stage"):
        Trainer(config)


def test_freezing_everything_is_refused(blobs_config: Path) -> None:
    config = load_config(blobs_config, ["--model.freeze", "stem", "stage1", "stage2", "head"]).config
    with pytest.raises(UserError, match="nothing left to train"):
        Trainer(config)


def test_torchvisions_weights_make_a_body_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # where torchvision finds what it downloaded earlier
    theirs = torchvision.models.resnet18()
    url = torchvision.models.ResNet18_Weights.DEFAULT.url
    downloaded = tmp_path / "hub" / "checkpoints" / Path(url).name
    downloaded.parent.mkdir(parents=True)
    torch.save(theirs.state_dict(), downloaded)
    network = build_anynet(preset="resnet18", num_classes=10)
    load_pretrained(network, "torchvision:resnet18")
    assert torch.equal(network.get_parameter("stem.conv.weight"), theirs.conv1.weight)
    assert torch.equal(network.get_parameter("stage4.1.conv2.weight"), theirs.layer4[1].conv2.weight)
    assert network.get_parameter("head.fc.weight").shape == (10, 512)


def test_files_of_others_make_a_body_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = pytest.importorskip("torchvision").models.resnet18()
    state = {f"module.{key}": value for key, value in theirs.state_dict().items() if "num_batches" not in key}
    averaged = {key: value + 1 for key, value in state.items()}
    torch.save({"model": state, "model_ema": averaged}, tmp_path / "checkpoint.pth")
    network = build_anynet(preset="resnet18", num_classes=10)
    load_pretrained(network, str(tmp_path / "checkpoint.pth"))
    assert torch.equal(network.get_parameter("stem.conv.weight"), theirs.conv1.weight + 1)
    assert torch.equal(network.get_parameter("stage4.1.conv2.weight"), theirs.layer4[1].conv2.weight + 1)
    assert "only names and shapes were compared" in caplog.text


def test_files_of_others_that_need_more_than_a_name_say_how_to_import_them(tmp_path: Path) -> None:
    names = ("stem.conv.weight", "s1.b1.f.a.weight", "head.fc.weight")
    shapes = ((32, 3, 3, 3), (24, 32, 1, 1), (2, 368))
    cfg = "{MODEL: {TYPE: regnet}, REGNET: {W0: 24, WA: 36.44, WM: 2.49, DEPTH: 13, GROUP_W: 8}}"
    weights = {name: torch.zeros(shape) for name, shape in zip(names, shapes, strict=True)}
    torch.save({"model_state": weights, "cfg": cfg}, tmp_path / "a.pyth")
    with pytest.raises(UserError, match=r"model\.pretrained: .*a\.pyth: .*--bgr of 'anynet models import'"):
        load_pretrained(build_anynet(preset="regnetx_200mf", num_classes=2), str(tmp_path / "a.pyth"))
