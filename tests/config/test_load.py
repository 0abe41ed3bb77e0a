from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anynet_dist.config import Config, load_config
from anynet_dist.config.errors import ConfigError
from anynet_dist.config.options import options

Write = Callable[..., None]


def value_of(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def test_an_empty_file_is_all_defaults(write: Write) -> None:
    write(c="# nothing yet\n", d="optim:\n#  lr: 0.1\ndata: {}\n")
    assert load_config("c.yaml").config == load_config("d.yaml").config == Config()


@pytest.mark.parametrize(
    ("text", "value"), [("5e-05", 5e-5), ("1E3", 1000.0), (".5", 0.5), ("1_000", 1000.0), ("2", 2.0)]
)
def test_every_spelling_of_a_number_is_a_number(write: Write, text: str, value: float) -> None:
    write(c=f"optim: {{lr: {text}}}")
    lr = load_config("c.yaml").config.optim.lr
    assert lr == value
    assert isinstance(lr, float)
    assert load_config("c.yaml", ["--optim.lr", text]).config.optim.lr == value


def test_off_and_dates_are_text(write: Write) -> None:
    write(c="tracking: {wandb: off}\nrun: {name: 2024-01-31}")
    config = load_config("c.yaml").config
    assert (config.tracking.wandb, config.run.name) == ("off", "2024-01-31")


def test_later_bases_and_the_file_itself_win_key_by_key(write: Write) -> None:
    write(
        root="optim: {lr: 1, momentum: 0.5, eps: 1}\nmodel: {strides: [1, 2, 2]}",
        sub__first="base: ../root.yaml\noptim: {lr: 2}",
        second="optim: {weight_decay: 3}",
        c="base: [sub/first.yaml, second.yaml]\nmodel: {strides: [4]}\noptim: {eps: 2}",
    )
    loaded = load_config("c.yaml", ["--optim.eps", "3"])
    optim = loaded.config.optim
    assert (optim.lr, optim.momentum, optim.weight_decay, optim.eps) == (2, 0.5, 3, 3)
    assert loaded.config.model.strides == [4]
    assert {key: str(source) for key, source in loaded.sources.items()} == {
        "optim.lr": "sub/first.yaml:2",
        "optim.momentum": "root.yaml:1",
        "optim.weight_decay": "second.yaml:1",
        "optim.eps": "command line",
        "model.strides": "c.yaml:2",
    }


def test_plugins_are_relative_to_the_file_that_names_them(write: Write, tmp_path: Path) -> None:
    write(sub__base="plugins: [mine.py]\ndata: {train: here}", c="base: sub/base.yaml")
    config = load_config("c.yaml").config
    assert config.plugins == [str(tmp_path / "sub/mine.py")]
    assert config.data.train == "here"
    assert load_config("c.yaml", ["--plugins", "a.py"]).config.plugins == [str(tmp_path / "a.py")]


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        ("--optim.lr 0.4", "optim.lr", 0.4),
        ("--optim.lr=0.4", "optim.lr", 0.4),
        ("--optim.lr 1 --optim.lr 0.4", "optim.lr", 0.4),
        ("--model.group-width 8", "model.group_width", 8),
        ("--model.group_width 8 16", "model.group_width", [8, 16]),
        ("--model.strides [1,2]", "model.strides", [1, 2]),
        ("--model.num_channels 8", "model.num_channels", [8]),
        ("--model.num_channels [8]", "model.num_channels", [8]),
        ("--model.block_type vgg", "model.block_type", "vgg"),
        ("--model.block_type vgg x", "model.block_type", ["vgg", "x"]),
        ("--model.preset None", "model.preset", None),
        ("--data.mean 0.1 .2 1e-3", "data.mean", (0.1, 0.2, 0.001)),
        ("--data.augment.flip", "data.augment.flip", True),
        ("--data.augment.flip true", "data.augment.flip", True),
        ("--data.augment.flip false", "data.augment.flip", False),
        ("--data.augment.no-flip", "data.augment.flip", False),
        ("--data.augment.no_flip", "data.augment.flip", False),
        ("--optim.no-nesterov", "optim.nesterov", False),
        ("--run.name 007", "run.name", "007"),
        ("--run.dir /x", "run.dir", "/x"),
        ("--tracking.tags 1 b", "tracking.tags", ["1", "b"]),
        ("--tracking.tags", "tracking.tags", []),
        ("--resume auto", "run.resume", "auto"),
    ],
)
def test_overrides(write: Write, words: str, key: str, value: object) -> None:
    write(c="data: {augment: {flip: true}}\nmodel: {preset: resnet50, strides: 2}")
    loaded = load_config("c.yaml", words.split())
    assert value_of(loaded.config, key) == value
    assert str(loaded.sources[key]) == "command line"


def test_every_option_is_described_and_its_default_known() -> None:
    for key, option in options().items():
        assert option.doc.endswith("."), key
        assert option.default == value_of(Config(), key)


@pytest.mark.parametrize(
    ("text", "mode"), [("true", "full"), ("false", "off"), ("off", "off"), ("regional", "regional")]
)
def test_compiling_was_once_a_switch(text: str, mode: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"train:\n  compile: {text}\n")
    assert load_config(file).config.train.compile == mode
    assert load_config(file, ["--train.compile", text]).config.train.compile == mode


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("false", False), ("stage1", ["stage1"]), ("[stem, stage2]", ["stem", "stage2"])],
)
def test_activations_are_checkpointed_everywhere_or_in_parts(
    text: str, value: object, tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"train:\n  activation_checkpointing: {text}\n")
    words = text.strip("[]").replace(",", "").split()
    for loaded in (load_config(file), load_config(file, ["--train.activation_checkpointing", *words])):
        assert loaded.config.train.activation_checkpointing == value
    switched_on = load_config(file, ["--train.activation_checkpointing"])
    assert switched_on.config.train.activation_checkpointing is True
    file.write_text("train: {activation_checkpointing: 3}")
    with pytest.raises(ConfigError, match=r"activation_checkpointing: must be true or false or a list"):
        load_config(file)
