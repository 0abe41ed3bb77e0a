from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

from anynet_dist.config import ConfigError, dump_config, load_config
from anynet_dist.config.dump import dump_with_sources

Write = Callable[..., None]

FULL = """\
model: {preset: regnetx_400mf, strides: [1, 2], group_width: 8, bottleneck_ratio: [0.5, 2]}
data: {mean: [0.1, 0.2, 0.3], augment: {random_resized_crop: true, crop_scale: [0.1, 1]}}
optim: {lr: 5e-05, betas: [0, 0.5], name: adam}
tracking: {wandb: off, tags: [a, 'null', '1e5', "no", 'two words: #', é, "line\\nbreak", '']}
run: {name: '12', dir: "a # b"}
plugins: [x.py]
"""


@pytest.mark.parametrize("text", ["", FULL])
def test_a_dumped_config_loads_back_equal(write: Write, text: str) -> None:
    write(c=text)
    loaded = load_config("c.yaml")
    write(dumped=dump_config(loaded.config), runs__shown=dump_with_sources(loaded))
    assert load_config("dumped.yaml").config == loaded.config
    assert load_config("runs/shown.yaml").config == loaded.config


def test_other_yaml_readers_agree(write: Write) -> None:
    write(c=FULL)
    config = load_config("c.yaml").config
    values = yaml.safe_load(dump_config(config))
    assert values["tracking"]["wandb"] == "off"
    assert values["tracking"]["tags"] == config.tracking.tags
    assert values["optim"]["lr"] == 5e-5


def test_each_value_says_where_it_came_from(write: Write) -> None:
    write(
        base="optim:\n  weight_decay: 5e-05\n  lr: 1",
        c="base: base.yaml\nmodel: {strides: [1, 2]}\noptim: {lr: 2}",
    )
    shown = dump_with_sources(load_config("c.yaml", ["--optim.momentum", "0.8"])).splitlines()
    assert [" ".join(line.split()) for line in shown if "default" not in line and "#" in line] == [
        "strides: [1, 2] # c.yaml:2",
        "lr: 2.0 # c.yaml:3",
        "weight_decay: 5.0e-05 # base.yaml:2",
        "momentum: 0.8 # command line",
    ]
    assert "  nesterov: true                              # default" in shown


def test_credentials_are_in_no_dump_and_must_be_given_again(write: Write) -> None:
    write(c="data:\n  train: https://u:pw@h/x\ntracking: {wandb: offline, tags: [a, 's3://K:pw@b']}")
    loaded = load_config("c.yaml", ["--data.val=h?token=pw"])
    assert loaded.config.data.train == "https://u:pw@h/x"
    saved, shown = dump_config(loaded.config), dump_with_sources(loaded)
    assert "pw" not in saved + shown
    assert "  train: https://***@h/x" in saved
    write(saved=saved)
    with pytest.raises(ConfigError) as caught:
        load_config("saved.yaml")
    problems = str(caught.value).splitlines()
    lines = [number for number, line in enumerate(saved.splitlines(), start=1) if "***" in line]
    keys = ["data.train", "data.val", "tracking.tags"]
    starts = [f"saved.yaml:{line}: {key}: its credentials" for line, key in zip(lines, keys, strict=True)]
    assert [problem.partition(" were removed")[0] for problem in problems] == starts
    assert "give the whole value again on the command line, --data.train VALUE" in problems[0]
    again = (
        "--data.train",
        "https://u:pw@h/x",
        "--data.val",
        "h?token=pw",
        "--tracking.tags",
        "a",
        "s3://K:pw@b",
    )
    assert load_config("saved.yaml", again).config == loaded.config
    assert load_config("saved.yaml", only_to_look=True).config.data.train == "https://***@h/x"


def test_an_option_given_without_its_credentials_is_refused(write: Write) -> None:
    write(c="")
    with pytest.raises(ConfigError, match=r"^--data\.train: its credentials were removed"):
        load_config("c.yaml", ["--data.train", "https://***@h/x"])
