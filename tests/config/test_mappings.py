"""Options by names that are not ours: `optim.options`, `schedule.options`, `train.loss_options`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from anynet_dist.config import dump_config, load_config
from anynet_dist.config.arguments import config_help
from anynet_dist.config.dump import dump_with_sources

Write = Callable[..., None]
Errors = Callable[..., list[str]]

BASE = "optim: {name: torch:RAdam, lr: 1, options: {a: 1}}"


@pytest.mark.parametrize(
    ("child", "overrides", "options"),
    [
        ("", (), {"a": 1}),
        ("optim: {options: {b: [1, 2.5]}}", (), {"a": 1, "b": [1, 2.5]}),
        ("optim: {options: {a: {x: text, y: null}}}", (), {"a": {"x": "text", "y": None}}),
        ("optim: {options: {}}", (), {}),
        ("optim:\n  options:\n", (), {"a": 1}),
        ("", ("--optim.options.a", "2e-3"), {"a": 0.002}),
        ("", ("--optim.options.b", "0.9", "0.99"), {"a": 1, "b": [0.9, 0.99]}),
        ("", ("--optim.options", "{b: true, c: {d: x}}"), {"b": True, "c": {"d": "x"}}),
        ("", ("--optim.options", '{"b": 1}', "--optim.options.c", "2"), {"b": 1, "c": 2}),
        ("", ("--optim.options.c", "2", "--optim.options", "{b: 1}"), {"b": 1}),
        ("", ("--optim.options", "None"), {}),
    ],
)
def test_entries_join_those_of_the_base(
    write: Write, child: str, overrides: tuple[str, ...], options: dict[str, Any]
) -> None:
    write(base=BASE, c=f"base: base.yaml\n{child}")
    loaded = load_config("c.yaml", overrides)
    assert loaded.config.optim.options == options
    write(dumped=dump_config(loaded.config), shown=dump_with_sources(loaded))
    assert load_config("dumped.yaml").config == load_config("shown.yaml").config == loaded.config


def test_each_entry_says_where_it_came_from(write: Write) -> None:
    write(base=BASE, c="base: base.yaml\noptim:\n  options:\n    b: 2\n")
    loaded = load_config("c.yaml", ["--optim.options.c", "3"])
    shown = [" ".join(line.split()) for line in dump_with_sources(loaded).splitlines()]
    assert {"a: 1 # base.yaml:1", "b: 2 # c.yaml:4", "c: 3 # command line"} <= set(shown)


def test_what_is_no_mapping_is_refused(errors: Errors) -> None:
    assert errors("optim:\n  options: 3\n", "--schedule.options", "[1]", "--train.loss_options.x") == [
        "c.yaml:2: optim.options: must be names with values (got 3)",
        "--train.loss_options.x: needs a value",
        "--schedule.options: must be names with values (got [1])",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "optim: {name: RAdam}",
            "optim.name: must be one of sgd, adam, adamw, torch:NAME, timm:NAME, or what a plug-in registers;"
            " did you mean 'adam'? (got 'RAdam')",
        ),
        (
            "optim: {name: torch:RAdam}",
            "optim.name: needs optim.lr: only sgd, adam, adamw have a default (got 'torch:RAdam')",
        ),
        (
            "schedule: {name: cosin}",
            "schedule.name: must be one of cosine, multistep, onecycle, constant, or what a plug-in"
            " registers; did you mean 'cosine'? (got 'cosin')",
        ),
        (
            "train: {loss: bec}",
            "train.loss: must be one of cross_entropy, bce, or what a plug-in registers;"
            " did you mean 'bce'? (got 'bec')",
        ),
    ],
)
def test_names_that_nobody_knows(errors: Errors, text: str, message: str) -> None:
    assert errors(text) == [f"c.yaml:1: {message}"]


def test_names_wait_for_plugins(write: Write) -> None:
    write(c="{plugins: [x.py], optim: {name: lion, lr: 1}, train: {loss: focal}, schedule: {name: mine}}")
    assert load_config("c.yaml").config.optim.name == "lion"


def test_options_of_sgd_and_adam_do_nothing_for_others(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write(c="optim: {name: torch:RAdam, lr: 1, betas: [0.9, 0.9], momentum: 0.5}")
    load_config("c.yaml")
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "optim.momentum has no effect",
        "optim.betas has no effect",
    ]


def test_a_saved_config_is_not_taken_for_choices(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    write(base=BASE)
    write(saved=dump_config(load_config("base.yaml").config))
    load_config("saved.yaml")
    assert not caplog.messages


def test_help_shows_them() -> None:
    assert "--optim.options {NAME: VALUE, ...}" in config_help()
