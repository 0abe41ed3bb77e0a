"""Hub folders, and the Hub's own reading of their model cards. Nothing is sent anywhere."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from anynet_dist import load_model
from anynet_dist.config import load_config
from anynet_dist.export.card import shorten
from anynet_dist.export.hub import write_hub_folder
from anynet_dist.inference.trained import TrainedNetwork, open_trained, scores_of
from anynet_dist.runs.network_file import load_network, save_network
from anynet_dist.system.errors import UserError
from anynet_dist.system.plugins import load_plugins
from anynet_dist.training.trainer import Trainer
from tests.conftest import Launch


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_run_becomes_a_folder_that_tells_all_of_it(blobs_config: Path, tmp_path: Path) -> None:
    result = Trainer(load_config(blobs_config, ["--ema.decay", "0.9"]).config).fit()
    environment = tmp_path / "run" / "environment.json"
    report = json.loads(environment.read_text())
    report["command"].append("--data.val=https://u:pw-marker@h/x")  # as earlier versions have written it
    environment.write_text(json.dumps(report))
    folder, check = write_hub_folder(open_trained(tmp_path / "run"))
    assert folder == tmp_path / "run" / "export" / "hub"
    assert {file.name for file in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert check.max_difference == 0.0

    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(load_model(folder)(images), load_model(tmp_path / "run")(images))
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "class0", "1": "class1", "2": "class2"}
    assert config["model"]["num_channels"] == [8, 8, 16]
    assert (config["mean"], config["resolution"]) == ([0.3, 0.3, 0.3], 16)

    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "anynet_dist"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.model_name == "blobs"
    scores = {(r.dataset_split, r.metric_name): r.metric_value for r in card.data.eval_results}
    assert scores["test", "top-1 accuracy"] == pytest.approx(result["test/ema_top1"], abs=1e-6)
    assert ("val", "top-1 accuracy") in scores
    assert f"| test | {result['test/ema_top1']:.2%} |" in card.text
    text = card.text.partition("```yaml\n")[2].partition("```")[0]
    assert yaml.safe_load(text)["optim"]["lr"] == 0.05
    assert "| Processes | 1 |" in card.text
    assert "| Precision | fp32 |" in card.text
    assert "torch 2" in card.text
    assert str(tmp_path) not in card.content
    assert "pw-marker" not in card.content


def test_a_file_alone_becomes_a_folder_too(trained: TrainedNetwork, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "photo.jpg").touch()
    write_hub_folder(trained, out, repo_id="someone/pets")
    assert (out / "photo.jpg").exists()
    card = ModelCard.load(out / "README.md")
    assert card.data.model_name == "pets"
    assert 'snapshot_download("someone/pets")' in card.text
    assert "| test | 50.00% | 100.00% | 1.2500 |" in card.text
    assert "a centre crop of 0.875 of the shorter side" in card.text
    assert "## Training" not in card.text
    assert load_network(out)[1] == trained.description


@pytest.mark.usefixtures("fresh_accelerate")
def test_scores_are_those_of_the_very_weights(blobs_config: Path, tmp_path: Path) -> None:
    Trainer(load_config(blobs_config, ["--ema.decay", "0.9", "--checkpoint.keep_last", "5"]).config).fit()
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (first,) = [record for record in records if record["epoch"] == 1 and "val/top1" in record]
    checkpoint = sorted((tmp_path / "run" / "checkpoints").glob("step_*"))[0]
    raw, averaged = (scores_of(open_trained(checkpoint, weights)) for weights in ("raw", "ema"))
    assert raw["val"]["loss"] == first["val/loss"]
    assert averaged["val"]["loss"] == first["val/ema_loss"]


@pytest.mark.slow
def test_parts_of_ones_own_go_along_but_are_not_run_unasked(
    trained: TrainedNetwork, tmp_path: Path, launch: Launch
) -> None:
    plugin = tmp_path / "far" / "my_stem.py"
    plugin.parent.mkdir()
    plugin.write_text(
        "from anynet_dist.models.registry import register_stem\n"
        "from anynet_dist.models.stems import ConvStem\n"
        "@register_stem('stem_of_my_own')\n"
        "class MyStem(ConvStem):\n    pooling = True\n"
    )
    load_plugins([plugin])
    model = {**trained.description.model, "stem": "stem_of_my_own"}
    description = replace(trained.description, model=model, plugins=["far/my_stem.py"])
    save_network(tmp_path / "own.safetensors", trained.network, description)
    folder, _ = write_hub_folder(open_trained(tmp_path / "own.safetensors"), tmp_path / "hub")
    assert (folder / "my_stem.py").read_text() == plugin.read_text()
    assert json.loads((folder / "config.json").read_text())["plugins"] == ["my_stem.py"]
    assert load_network(folder)[1].plugins == [f"{folder}/my_stem.py"]
    card = (folder / "README.md").read_text()
    assert "load_model(folder, allow_plugins=True)" in card
    assert "read `my_stem.py` first" in card

    # As the Hub's own client leaves it: links to files whose names are checksums.
    image, blob = tmp_path / "image.png", tmp_path / "0123abcd"
    (folder / "my_stem.py").rename(blob)
    (folder / "my_stem.py").symlink_to(blob)
    Image.new("RGB", (24, 24)).save(image)
    refused = launch("predict", folder, image, check=False)
    assert refused.returncode == 2
    assert f"asks to run Python code: {folder}/my_stem.py" in refused.stderr
    assert "cat" in launch("predict", folder, image, "--allow-plugins").stdout


def test_only_files_that_were_run_go_along(trained: TrainedNetwork, tmp_path: Path) -> None:
    secret = tmp_path / "secret.py"
    secret.write_text("password = 1")
    description = replace(trained.description, plugins=[str(secret)])
    save_network(tmp_path / "odd.safetensors", trained.network, description)
    with pytest.raises(UserError, match=rf"odd\.safetensors asks to run Python code: {secret}"):
        write_hub_folder(open_trained(tmp_path / "odd.safetensors"), tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_a_file_in_the_way_is_named(trained: TrainedNetwork) -> None:
    with pytest.raises(UserError, match=r"model\.safetensors is a file; a Hub folder is a folder"):
        write_hub_folder(trained, trained.file)


def test_absolute_paths_keep_their_last_two_parts() -> None:
    assert shorten(["train", "--data.train=/home/me/c/t.beton", "--optim.lr=1", "--quiet"]) == [
        "train",
        "--data.train=c/t.beton",
        "--optim.lr=1",
        "--quiet",
    ]
    value = {"train": "/home/me/cifar10/train.beton", "plugins": ["/x.py"], "lr": 0.1, "dir": "runs/a/b/c"}
    assert shorten(value) == {
        "train": "cifar10/train.beton",
        "plugins": ["x.py"],
        "lr": 0.1,
        "dir": "runs/a/b/c",
    }
