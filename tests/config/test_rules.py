# ruff: noqa: E501 - messages stand whole, as they are searched for

from __future__ import annotations

from collections.abc import Callable

import pytest

from anynet_dist.config import dump_config, load_config

Write = Callable[..., None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{run: {overwrite: true, resume: auto}}", "run.overwrite: either start from scratch or resume: drop one of the two"),
        ("{run: {cpu: true}, train: {precision: fp16}}", "train.precision: fp16 needs a GPU; with run.cpu take bf16 or fp32"),
        ("{data: {val: x, val_fraction: 0.1}}", "data.val_fraction: data.val already gives validation images; drop one of the two"),
        (
            "{data: {augment: {random_resized_crop: true, crop_scale: [1, 0.5]}}}",
            "data.augment.crop_scale: the smallest comes first (got [1.0, 0.5])",
        ),
        ("{schedule: {name: multistep, milestones: [3, 2]}}", "schedule.milestones: must rise (got [3.0, 2.0])"),
        ("{schedule: {name: multistep, milestones: [2, 2]}}", "schedule.milestones: must rise (got [2.0, 2.0])"),
        (
            "{schedule: {name: multistep, milestones: [2, 4], warmup_epochs: 3}}",
            "schedule.milestones: the first, 2, falls into the warm-up, schedule.warmup_epochs: 3",
        ),
        (
            "{run: {max_time: '00:01:00'}}",
            "run.max_time: must be longer than run.stop_margin, 60 s (got '00:01:00')",
        ),
        (
            "{schedule: {warmup_epochs: 10.5}}",
            "schedule.warmup_epochs: 10.5 epochs of warm-up are longer than the training, train.epochs: 10",
        ),
        ("{optim: {momentum: 0}}", "optim.momentum: Nesterov needs a momentum above 0; otherwise set optim.nesterov to false"),
    ],
)  # fmt: skip
def test_contradictions(errors: Callable[..., list[str]], text: str, message: str) -> None:
    assert errors(text) == [f"c.yaml:1: {message}"]


def test_a_contradiction_is_laid_to_what_the_user_set(errors: Callable[..., list[str]]) -> None:
    assert errors("schedule: {warmup_epochs: 5}", "--train.epochs", "3")[0].startswith(
        "c.yaml:1: schedule.warmup"
    )
    assert errors("optim: {nesterov: true}", "--optim.momentum", "0")[0].startswith("--optim.momentum: ")


@pytest.mark.parametrize(
    "text",
    [
        "{schedule: {name: onecycle, warmup_epochs: 0}}",
        "{schedule: {name: multistep, milestones: []}}",
        "{schedule: {warmup_epochs: 10}}",
        "{optim: {momentum: 0, nesterov: false}}",
        "{data: {val: x, val_fraction: 0}}",
    ],
)
def test_no_contradictions(write: Write, caplog: pytest.LogCaptureFixture, text: str) -> None:
    write(c=text)
    load_config("c.yaml")
    assert not caplog.messages


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{optim: {name: adam, nesterov: true}}", "optim.nesterov has no effect: only optim.name: sgd uses it"),
        ("{optim: {eps: 1}}", "optim.eps has no effect: only optim.name: adam and adamw use it"),
        ("{schedule: {gamma: 0.2}}", "schedule.gamma has no effect: only multistep uses it"),
        ("{optim: {lr: 1}, schedule: {warmup_start: 0}}", "schedule.warmup_start has no effect: there is no warm-up (schedule.warmup_epochs)"),
        ("{schedule: {name: constant, final: 0}}", "schedule.final has no effect: only cosine and onecycle use it"),
        (
            "{schedule: {name: multistep, milestones: [3, 30]}}",
            "schedule.milestones has no effect: training ends before the last of them (train.epochs)",
        ),
        ("{ema: {every: 2}}", "ema.every has no effect: there is no average without ema.decay"),
        (
            "{data: {augment: {crop_scale: [0.5, 1]}}}",
            "data.augment.crop_scale has no effect: only data.augment.random_resized_crop uses it",
        ),
        ("{tracking: {tags: [a]}}", "tracking.tags has no effect: tracking.wandb is off"),
    ],
)  # fmt: skip
def test_what_was_set_in_vain_is_told(
    write: Write, caplog: pytest.LogCaptureFixture, text: str, message: str
) -> None:
    write(c=text)
    load_config("c.yaml")
    assert caplog.messages == [f"{message} (c.yaml:1)"]


def test_a_saved_config_is_silent_about_defaults(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    write(c="optim: {name: adamw}\nema: {every: 2}")
    write(saved=dump_config(load_config("c.yaml").config))
    caplog.clear()
    load_config("saved.yaml")
    assert [message.split()[0] for message in caplog.messages] == ["ema.every"]
