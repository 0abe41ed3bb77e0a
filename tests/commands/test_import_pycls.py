"""`anynet config import pycls`, and pycls' and timm's checkpoints through `anynet models import`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from anynet_dist import build_anynet
from anynet_dist.cli import main
from anynet_dist.config import load_config
from anynet_dist.config.schema import Config
from anynet_dist.models import network_complexity, network_spec
from anynet_dist.runs.network_file import load_network
from anynet_dist.training.build import model_arguments


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """The command takes over the package's log, which other tests read."""
    logger = logging.getLogger("anynet_dist")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


IMAGENET: dict[str, Any] = {
    "MODEL": {"TYPE": "regnet", "NUM_CLASSES": 1000},
    "REGNET": {"SE_ON": True, "DEPTH": 16, "W0": 48, "WA": 27.89, "WM": 2.09, "GROUP_W": 8},
    "OPTIM": {"BASE_LR": 0.8, "MAX_EPOCH": 100, "WEIGHT_DECAY": "5e-5", "WARMUP_EPOCHS": 5},
    "TRAIN": {"DATASET": "imagenet", "IM_SIZE": 224, "BATCH_SIZE": 1024},
    "TEST": {"DATASET": "imagenet", "IM_SIZE": 256, "BATCH_SIZE": 800},
    "NUM_GPUS": 8,
    "OUT_DIR": ".",
}
CIFAR: dict[str, Any] = {
    "MODEL": {"TYPE": "resnet", "DEPTH": 56, "NUM_CLASSES": 10},
    "BN": {"USE_PRECISE_STATS": False, "USE_CUSTOM_WEIGHT_DECAY": True},
    "OPTIM": {
        "BASE_LR": 1.0,
        "LR_POLICY": "steps",
        "STEPS": [0, 30, 60, 90],
        "LR_MULT": 0.2,
        "MAX_EPOCH": 100,
        "EMA_UPDATE_PERIOD": 0,
        "WEIGHT_DECAY": 5e-4,
        "BIAS_USE_CUSTOM_WEIGHT_DECAY": True,
    },
    "TRAIN": {
        "DATASET": "cifar10",
        "IM_SIZE": 32,
        "BATCH_SIZE": 128,
        "LABEL_SMOOTHING": 0.1,
        "MIXUP_ALPHA": 0.5,
    },
    "TEST": {"DATASET": "cifar10", "SPLIT": "test", "IM_SIZE": 32},
}


def imported(folder: Path, tree: dict[str, Any], caplog: pytest.LogCaptureFixture) -> tuple[Config, str]:
    """The config written for the tree, and the file's text; nothing in it is without effect."""
    (folder / "theirs.yaml").write_text(yaml.safe_dump(tree))
    out = folder / "ours.yaml"
    words = ("import", "pycls", str(folder / "theirs.yaml"), "--out", str(out), "--overwrite")
    assert main(["config", *words]) == 0
    config = load_config(out).config
    assert "has no effect" not in caplog.text
    return config, out.read_text()


def test_the_recipe_of_an_imagenet_config(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, text = imported(tmp_path, IMAGENET, caplog)
    assert network_complexity(network_spec(**model_arguments(config))).params == 4_344_144
    data, optim, schedule = config.data, config.optim, config.schedule
    assert (data.train_res, data.eval_res, data.eval_crop_ratio) == (224, 224, 0.875)
    assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (data.augment.random_resized_crop, data.augment.flip, data.augment.translate) == (True, True, 0)
    assert (config.train.global_batch, config.train.epochs, config.train.precision) == (1024, 100, "fp32")
    assert (optim.name, optim.lr, optim.weight_decay, optim.nesterov) == ("sgd", 0.8, 5e-5, True)
    assert optim.decay_norm_and_bias
    assert (schedule.name, schedule.warmup_epochs, schedule.warmup_start) == ("cosine", 5, 0.1)
    assert (config.eval.batch_size, config.eval.precise_bn) == (100, 8192)
    assert config.ema.decay is not None
    assert 1 - config.ema.decay**config.ema.every == pytest.approx(1e-5 * 1024 / 100 * 32, rel=1e-9)
    assert (data.augment.lighting, schedule.update) == (0.1, "epoch")
    assert "given by the command line, or automatic, here: OUT_DIR" in text


def test_the_recipe_of_a_cifar_config(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, text = imported(tmp_path, CIFAR, caplog)
    assert (config.model.preset, config.model.num_classes) == ("resnet56", 10)
    assert (config.data.augment.translate, config.data.augment.random_resized_crop) == (4, False)
    assert config.data.mean == pytest.approx((125.3 / 255, 123.0 / 255, 113.9 / 255))
    assert (config.schedule.name, config.schedule.milestones) == ("multistep", [30, 60, 90])
    assert (config.schedule.gamma, config.train.label_smoothing, config.data.augment.mixup) == (0.2, 0.1, 0.5)
    assert (config.ema.decay, config.eval.precise_bn, config.optim.decay_norm_and_bias) == (None, 0, False)
    assert "weight decay of batch norm" not in text


@pytest.mark.parametrize(
    ("section", "options", "note"),
    [
        ("OPTIM", {"LR_POLICY": "exp", "MIN_LR": 0.01}, "OPTIM.LR_POLICY exp: cosine takes its place"),
        ("OPTIM", {"DAMPENING": 0.1}, "OPTIM.DAMPENING 0.1"),
        ("BN", {"MOM": 0.01}, "BN.MOM 0.01"),
        (
            "BN",
            {"USE_CUSTOM_WEIGHT_DECAY": True},
            "weight decay of batch norm 0 and of biases 5e-05: 0 for both",
        ),
        ("TRAIN", {"AUGMENT": "RandAugment_N2_M0.5"}, "TRAIN.AUGMENT RandAugment_N2_M0.5"),
        ("TRAIN", {"MIXED_PRECISION": True}, "TRAIN.MIXED_PRECISION is fp16 in pycls"),
        ("OPTIM", {"GAMMA": 0.1}, "not known here: OPTIM.GAMMA"),
    ],
)
def test_what_has_no_counterpart_is_listed(
    section: str, options: dict[str, Any], note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = {**IMAGENET, section: {**IMAGENET.get(section, {}), **options}}
    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump(tree))
    assert main(["config", "import", "pycls", str(tmp_path / "theirs.yaml")]) == 0
    assert f"# - {note}" in capsys.readouterr().out


def test_configs_that_cannot_be_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "theirs.yaml", tmp_path / "ours.yaml"
    assert main(["config", "import", "pycls", str(file)]) == 2
    assert "theirs.yaml: there is no such file" in capsys.readouterr().err
    file.write_text("MODEL: {TYPE: effnet}")
    assert main(["config", "import", "pycls", str(file), "--out", str(out)]) == 2
    assert "theirs.yaml: MODEL.TYPE is 'effnet'" in capsys.readouterr().err
    assert not out.exists()


def test_what_the_command_line_says_of_a_network_wins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    description: dict[str, Any] = {"preset": "resnet20", "num_classes": 10}
    network = build_anynet(**description)
    cfg = {**CIFAR, "MODEL": {"TYPE": "resnet", "DEPTH": 20, "NUM_CLASSES": 10}}
    state = {
        key.replace("stage", "s").replace(".shortcut.0.", ".proj.").replace(".shortcut.1.", ".bn."): tensor
        for key, tensor in network.state_dict().items()
    }
    for block in range(3):
        state = {key.replace(f".{2 - block}.", f".b{3 - block}.", 1): value for key, value in state.items()}
    for layer, name in (("conv1", "f.a"), ("conv2", "f.b"), ("bn1", "f.a_bn"), ("bn2", "f.b_bn")):
        state = {key.replace(layer, name): tensor for key, tensor in state.items()}
    torch.save({"model_state": state, "cfg": yaml.safe_dump(cfg)}, tmp_path / "a.pyth")
    source, out = str(tmp_path / "a.pyth"), tmp_path / "out.safetensors"
    words = ["models", "import", source, "--out", str(out), "--overwrite"]
    assert main(words) == 0
    ours, said = load_network(out)
    assert said.model == description
    assert (said.mean[0], said.resolution) == (pytest.approx(125.3 / 255), 32)
    assert torch.equal(ours.get_parameter("stem.conv.weight"), network.get_parameter("stem.conv.weight"))
    assert main([*words, "--bgr", "--mean", ".5", ".4", ".3", "--std", "1", "1", "2", "--res", "40"]) == 0
    ours, said = load_network(out)
    assert (said.mean, said.std, said.resolution) == ((0.5, 0.4, 0.3), (1.0, 1.0, 2.0), 40)
    assert torch.equal(
        ours.get_parameter("stem.conv.weight"), network.get_parameter("stem.conv.weight").flip(1)
    )
    capsys.readouterr()
    assert main([*words, "--weights", "ema"]) == 2
    assert "a.pyth: there is no moving average of the weights here" in capsys.readouterr().err
    assert main([*words, "--mean", "125", "123", "114"]) == 2
    assert "three numbers from 0 to 1" in capsys.readouterr().err


def test_a_library_has_no_average_to_choose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["models", "import", "torchvision:resnet18", "--weights", "ema", "--out", str(tmp_path / "a")]
    assert main(words) == 2
    assert "--weights ema is for checkpoints" in capsys.readouterr().err
