from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision

from anynet_dist.cli import main
from anynet_dist.models import (
    network_complexity,
    network_spec,
    part_complexities,
    preset_names,
    training_memory,
)
from anynet_dist.runs.network_file import load_network


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """The command takes over the package's log, which other tests read."""
    logger = logging.getLogger("anynet_dist")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)
    logging.captureWarnings(False)


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["models", *words]) == 0
    return capsys.readouterr().out


def test_list_names_every_preset(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split() for line in shown(capsys, "list").splitlines()]
    rows = {line[0]: line[1:] for line in lines if line}
    assert set(preset_names()) <= set(rows)
    assert rows["regnetx_400mf"] == ["224", "5.16", "0.40", "3.14", "72.62%", "pycls"]
    assert rows["regnetx_400mf_cifar"][0] == rows["resnet56"][0] == "32"
    assert rows["vgg16_like"][-1] == "13.55"


def test_a_network_for_small_images_is_shown_with_those(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(shown(capsys, "show", "resnet20", "--json"))["resolution"] == 32
    rows = json.loads(shown(capsys, "list", "resnet20", "--res", "64", "--json"))
    assert {row["resolution"] for row in rows} == {64}


def test_list_as_json_has_the_exact_counts(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(shown(capsys, "list", "regnety_*gf", "--json"))
    assert [row["name"] for row in rows] == [
        name for name in preset_names() if name.startswith("regnety_") and name.endswith("gf")
    ]
    cost = network_complexity(network_spec(preset="regnety_4gf"))
    assert next(row for row in rows if row["name"] == "regnety_4gf") == {
        "name": "regnety_4gf",
        "params": cost.params,
        "flops": cost.flops,
        "acts": cost.acts,
        "resolution": 224,
        "num_classes": 1000,
        "top1": 0.7936,
        "top1_source": "pycls",
    }


def test_part_of_a_name_and_another_size(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = json.loads(shown(capsys, "list", "resnet56", "--res", "32", "--classes", "10", "--json"))
    cost = network_complexity(network_spec(preset="resnet56", num_classes=10), 32)
    assert (row["params"], row["flops"]) == (cost.params, cost.flops)
    assert row["top1"] is None


@pytest.mark.slow
def test_show_prints_parts_total_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(shown(capsys, "show", "regnety_400mf", "--batch", "32").split())
    assert "stage1 1 x bottleneck /2 g=8 se=0.25 48x56x56 10,040 42,148,664 1,053,752 7" in text
    assert "head linear 1000x1x1 441,000 441,000 1,000 575" in text
    assert "total 4,344,144 401,849,056 3,892,496" in text
    assert "training, 32 images at a time fp32 (MiB) bf16 (MiB)" in text
    assert "optimizer (sgd) 16.6 16.6" in text
    assert "what autograd keeps for the backward pass" in text


def test_show_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("show", "resnet18", "--res", "65", "--classes", "7", "--batch", "4", "--json")
    facts = json.loads(shown(capsys, *words))
    parts = part_complexities(network_spec(preset="resnet18", num_classes=7), 65)
    assert [part["receptive_field"] for part in facts["parts"]] == [part.receptive_field for part in parts]
    assert facts["params"] == sum(part.params for part in parts)
    fp32, bf16 = facts["memory"]["fp32"], facts["memory"]["bf16"]
    assert fp32["gradients"] == bf16["gradients"] == 4 * facts["params"]
    assert bf16["activations"] < 0.6 * fp32["activations"]


def test_memory_by_network_batch_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("memory", "resnet20", "--res", "32", "--classes", "10", "--batch", "8", "16")
    rows = json.loads(shown(capsys, *words, "--json"))
    rows = [row for row in rows if row["name"] == "resnet20"]  # and resnet200
    assert [row["batch"] for row in rows] == [8, 16]
    spec = network_spec(preset="resnet20", num_classes=10)
    for row in rows:
        assert row["bf16 checkpointed"] == training_memory(spec, 32, row["batch"], "bf16", "sgd", True).total
        assert row["fp32 checkpointed"] < row["fp32"]
    text = " ".join(shown(capsys, *words).split())
    assert "peak memory (GiB) px batch fp32 bf16 fp32 checkpointed bf16 checkpointed" in text
    assert "resnet20 32 16 " in text


def test_show_counts_what_a_config_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "saving.yaml"
    config.write_text(
        "model: {preset: resnet20, num_classes: 10}\n"
        "data: {train_res: 32}\n"
        "train: {global_batch: 8, activation_checkpointing: [stage1]}\n"
    )
    memory = json.loads(shown(capsys, "show", str(config), "--json"))["memory"]["fp32"]
    spec = network_spec(preset="resnet20", num_classes=10)
    expected = training_memory(spec, 32, 8, checkpointing=["stage1"])
    assert (memory["recomputed"], memory["total"]) == (expected.recomputed, expected.total)
    assert "of a checkpointed block" in shown(capsys, "show", str(config))


@pytest.mark.slow
@pytest.mark.parametrize("name", preset_names())
def test_every_preset_can_be_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(shown(capsys, "show", name, "--json"))
    assert facts["params"] == network_complexity(network_spec(preset=name)).params
    assert facts["parts"][-1]["channels"] == 1000
    assert facts["memory"]["fp32"]["activations"] > 4 * 128 * facts["acts"]


def test_show_takes_a_config_with_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "blocks.py").write_text(
        "from anynet_dist.models.blocks import VGGBlock\n"
        "from anynet_dist.models.registry import register_block\n"
        "register_block('models_command_test')(type('Mine', (VGGBlock,), {}))\n"
    )
    config = tmp_path / "mine.yaml"
    config.write_text(
        "plugins: [blocks.py]\n"
        "model: {block_type: models_command_test, num_blocks_per_stage: [1], num_channels: [8, 16],"
        " num_classes: 5}\n"
        "data: {train_res: 20}\n"
        "train: {global_batch: 6}\n"
        "optim: {name: adamw}\n"
    )
    assert main(["models", "show", str(config)]) == 2
    error = capsys.readouterr().err
    assert f"{config} asks to run Python code: {tmp_path}/blocks.py; read it, then allow it" in error
    facts = json.loads(shown(capsys, "show", str(config), "--json", "--allow-plugins"))
    assert (facts["resolution"], facts["num_classes"], facts["batch"], facts["optimizer"]) == (
        20,
        5,
        6,
        "adamw",
    )
    assert [part["height"] for part in facts["parts"]] == [10, 5, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["list", "alexnet"], "no preset matches 'alexnet'"),
        (["list", "--res", "0"], "a resolution must be at least 1, not 0"),
        (["show", "regnetx_40mf"], "unknown preset 'regnetx_40mf'; did you mean 'regnetx_400mf'"),
        (["show", "nowhere.yaml"], "there is no such config file"),
        (["show", "resnet50", "--res", "8"], "resolution 8 is too small"),
        (["show", "resnet18", "--classes", "0"], "num_classes must be at least 1"),
        (["show", "resnet18", "--batch", "0"], "at least 1 image"),
        (["import", "nowhere.pth", "--out", "x"], "nowhere.pth: there is no such file"),
    ],
)
def test_mistakes(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_import_writes_a_network_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = torchvision.models.resnet18(weights=None, num_classes=10).eval()
    torch.nn.init.uniform_(theirs.bn1.running_mean)
    torch.save({"model": theirs.state_dict(), "epoch": 90}, tmp_path / "checkpoint.pth")
    out = tmp_path / "ours" / "resnet18.safetensors"
    said = shown(capsys, "import", str(tmp_path / "checkpoint.pth"), "--model", "resnet18", "--out", str(out))
    assert "taking ImageNet's mean and std" in said
    assert said.endswith(f"{out}: resnet18, 11,181,642 parameters, 10 classes\n")
    network, description = load_network(out)
    assert description.model == {"preset": "resnet18", "num_classes": 10}
    assert description.mean == (0.485, 0.456, 0.406)
    images = torch.randn(2, 3, 65, 65)
    with torch.no_grad():
        assert torch.equal(network(images), theirs(images))


def test_what_is_there_is_seen_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, pipe = tmp_path / "out.safetensors", tmp_path / "pipe"
    out.write_text("mine")
    os.mkfifo(pipe)
    assert main(["models", "import", "nowhere.pth", "--out", str(out)]) == 2
    assert f"{out} exists already: write elsewhere, or replace with --overwrite" in capsys.readouterr().err
    assert main(["models", "import", "nowhere.pth", "--out", str(pipe), "--overwrite"]) == 2
    assert f"{pipe} is a named pipe, not a file" in capsys.readouterr().err
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "a.pth")
    words = (str(tmp_path / "a.pth"), "--model", "resnet18", "--out", str(out), "--overwrite")
    shown(capsys, "import", *words)
    assert load_network(out)[1].model["preset"] == "resnet18"


def test_a_file_needs_the_name_of_its_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "a.pth")
    out = tmp_path / "b.safetensors"
    assert main(["models", "import", str(tmp_path / "a.pth"), "--out", str(out)]) == 2
    assert "name it with --model" in capsys.readouterr().err
    assert main(["models", "import", str(tmp_path / "a.pth"), "--model", "resnet34", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "presets with as many parameters (11,689,512): resnet18" in error
    assert not out.exists()
