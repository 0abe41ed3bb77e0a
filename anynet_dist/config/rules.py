"""Rules between options: what contradicts, and what has no effect."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import asdict
from operator import attrgetter
from typing import NamedTuple

from anynet_dist.config.durations import parse_duration
from anynet_dist.config.schema import (
    LOSSES,
    OPTIMIZER_LIBRARIES,
    OPTIMIZERS,
    SCHEDULES,
    TASKS,
    Config,
    TrackingConfig,
)
from anynet_dist.config.wandb_names import LONGEST_NAME, name_problem, project_problem, tag_problems
from anynet_dist.system.errors import nearest_name
from anynet_dist.system.registry import registered


class Conflict(NamedTuple):
    """Options that cannot go together, the one to change first."""

    keys: tuple[str, ...]
    message: str


MOST = {
    "run.seed": 2**32 - 1,
    "run.timeout": 100_000,
    "data.workers": 1024,
    "data.train_res": 2**14,
    "data.start_res": 2**14,
    "data.eval_res": 2**14,
    "data.augment.randaugment_ops": 100,
    "data.augment.repeats": 10_000,
    "train.epochs": 10**6,
    "train.max_steps": 10**9,
    "train.global_batch": 2**24,
    "train.max_device_batch": 2**24,
    "eval.batch_size": 2**24,
}
"""Beyond these no run makes sense, and some would fill the memory or never end."""


def conflicts(config: Config) -> Iterator[Conflict]:
    """All contradictions in a config whose values are each valid, and values beyond all bounds."""
    for key, most in MOST.items():
        value = attrgetter(key)(config)
        if value is not None and value > most:
            yield Conflict((key,), f"must be at most {most:,} (got {value:,})")
    yield from _run_conflicts(config)
    yield from _regnet_conflicts(config)
    yield from _data_conflicts(config)
    yield from _schedule_conflicts(config)
    yield from _tracking_conflicts(config.tracking)
    yield from _name_conflicts(config)
    if config.optim.name == "sgd" and config.optim.nesterov and config.optim.momentum == 0:
        keys = ("optim.momentum", "optim.nesterov")
        yield Conflict(keys, "Nesterov needs a momentum above 0; otherwise set optim.nesterov to false")


def _name_conflicts(config: Config) -> Iterator[Conflict]:
    """Unknown names, as far as they can be known before plug-ins are loaded."""
    optimizer = config.optim.name
    problem = (
        None if config.plugins else _name_problem("optimizer", optimizer, OPTIMIZERS, OPTIMIZER_LIBRARIES)
    )
    if problem:
        yield Conflict(("optim.name",), problem)
    elif config.optim.lr is None and optimizer not in OPTIMIZERS:
        message = f"needs optim.lr: only {', '.join(OPTIMIZERS)} have a default (got '{optimizer}')"
        yield Conflict(("optim.name", "optim.lr"), message)
    if config.plugins:
        return
    if problem := _name_problem("schedule", config.schedule.name, SCHEDULES):
        yield Conflict(("schedule.name",), problem)
    if problem := _name_problem("loss", config.train.loss, LOSSES):
        yield Conflict(("train.loss",), problem)
    if problem := _name_problem("task", config.train.task, TASKS):
        yield Conflict(("train.task",), problem)


def _name_problem(
    kind: str, name: str, built_in: tuple[str, ...], libraries: tuple[str, ...] = ()
) -> str | None:
    """What is wrong with a name under which no plug-in will register anything; None for nothing."""
    known = list(dict.fromkeys([*built_in, *registered(kind)]))
    library, colon, _ = name.partition(":")
    if name in known or (colon and library in libraries):
        return None
    nearest = nearest_name(name, known)
    hint = f"; did you mean '{nearest}'?" if nearest else ""
    allowed = ", ".join([*known, *(f"{library}:NAME" for library in libraries)])
    return f"must be one of {allowed}, or what a plug-in registers{hint} (got '{name}')"


def _run_conflicts(config: Config) -> Iterator[Conflict]:
    name, limit = config.run.name, config.run.max_time
    if name is not None and not _is_plain_name(name):
        message = f"must be a plain name, for runs/NAME; a path belongs in run.dir (got {name!r})"
        yield Conflict(("run.name",), message)
    if limit is not None and parse_duration(limit) <= config.run.stop_margin:
        message = f"must be longer than run.stop_margin, {config.run.stop_margin:g} s (got '{limit}')"
        yield Conflict(("run.max_time", "run.stop_margin"), message)
    if config.train.early_stopping and config.data.val is None and not config.data.val_fraction:
        message = "needs validation images: set data.val or data.val_fraction"
        yield Conflict(("train.early_stopping", "data.val"), message)
    if config.train.profile:
        start, stop = map(int, config.train.profile.split(":"))
        if start >= stop:
            yield Conflict(("train.profile",), f"START must come before STOP (got {config.train.profile})")
    if config.run.overwrite and config.run.resume == "auto":
        yield Conflict(
            ("run.overwrite", "run.resume"), "either start from scratch or resume: drop one of the two"
        )
    if config.run.cpu and config.train.precision == "fp16":
        yield Conflict(("train.precision", "run.cpu"), "fp16 needs a GPU; with run.cpu take bf16 or fp32")


def _tracking_conflicts(tracking: TrackingConfig) -> Iterator[Conflict]:
    """Options of trackers that are not used, and names that Weights & Biases would refuse."""
    for name in tracking.tracker_options.keys() - tracking.others:
        message = f"names '{name}', which is not among tracking.trackers"
        if name in ("wandb", "tensorboard"):
            message = f"does not take '{name}', which has options of its own"
        yield Conflict(("tracking.tracker_options", "tracking.trackers"), message)
    if tracking.wandb_mode == "off":
        return
    project, entity = tracking.wandb_project, tracking.wandb_entity
    if project is not None and (problem := project_problem(project, entity)):
        yield Conflict(("tracking.wandb_project",), problem)
    if entity is not None and (problem := name_problem(entity)):
        yield Conflict(("tracking.wandb_entity",), problem)
    for key in ("wandb_group", "wandb_job_type"):
        name = getattr(tracking, key)
        if name is not None and not 1 <= len(name.strip()) <= LONGEST_NAME:
            yield Conflict((f"tracking.{key}",), f"must have 1 to {LONGEST_NAME} characters")
    yield from (Conflict(("tracking.tags",), problem) for problem in tag_problems(tracking.tags))


def _is_plain_name(name: str) -> bool:
    """Whether it names a folder in runs/: not a path, nor one of the names that mean another folder."""
    return bool(name.strip(" .")) and "/" not in name and name.isprintable() and len(os.fsencode(name)) < 200


REGNET_NEEDS = ("w0", "wa", "wm", "depth", "group_width")
REGNET_REPLACES = (
    "preset",
    "num_stages",
    "num_blocks_per_stage",
    "num_channels",
    "bottleneck_ratio",
    "group_width",
    "se_ratio",
)


def _regnet_conflicts(config: Config) -> Iterator[Conflict]:
    regnet = asdict(config.model.regnet)
    given = [name for name, value in regnet.items() if value is not None]
    if not given:
        return
    missing = [name for name in REGNET_NEEDS if regnet[name] is None]
    if missing:
        names = ", ".join(f"model.regnet.{name}" for name in missing)
        message = f"a RegNet needs {', '.join(REGNET_NEEDS)}: set {names} too"
        yield Conflict((f"model.regnet.{given[0]}", *(f"model.regnet.{name}" for name in missing)), message)
    for name in REGNET_REPLACES:
        if getattr(config.model, name) is not None:
            instead = f"; set model.regnet.{name}" if name in regnet else ""
            instead = "; the stem's is model.regnet.stem_width" if name == "num_channels" else instead
            message = f"model.regnet gives the network's depths and widths: drop one of the two{instead}"
            yield Conflict((f"model.{name}", f"model.regnet.{given[0]}"), message)


def _data_conflicts(config: Config) -> Iterator[Conflict]:
    if config.data.val is not None and config.data.val_fraction > 0:
        message = "data.val already gives validation images; drop one of the two"
        yield Conflict(("data.val_fraction", "data.val"), message)
    first, last = config.data.res_ramp
    if first >= last:
        yield Conflict(("data.res_ramp",), f"the first epoch comes before the last (got [{first}, {last}])")
    start, full = config.data.start_res, config.data.train_res
    if start is not None and full is not None and start > full:
        yield Conflict(("data.start_res", "data.train_res"), f"images grow: at most data.train_res, {full}")
    for name in config.data.augment.reversed_ranges():
        smallest, largest = getattr(config.data.augment, name)
        message = f"the smallest comes first (got [{smallest}, {largest}])"
        yield Conflict((f"data.augment.{name}",), message)


def _schedule_conflicts(config: Config) -> Iterator[Conflict]:
    schedule, epochs = config.schedule, config.train.epochs
    warmup = schedule.warmup_epochs or 0.0
    if warmup > epochs:
        message = f"{warmup:g} epochs of warm-up are longer than the training, train.epochs: {epochs}"
        yield Conflict(("schedule.warmup_epochs", "train.epochs"), message)
    if schedule.name == "multistep":
        later = schedule.milestones[1:]
        if any(one >= next_one for one, next_one in zip(schedule.milestones, later, strict=False)):
            yield Conflict(("schedule.milestones",), f"must rise (got {schedule.milestones})")
        first = min(schedule.milestones, default=warmup)
        if first < warmup:
            message = f"the first, {first:g}, falls into the warm-up, schedule.warmup_epochs: {warmup:g}"
            yield Conflict(("schedule.milestones", "schedule.warmup_epochs"), message)


def without_effect(config: Config, chosen: Collection[str]) -> Iterator[tuple[str, str]]:
    """The options among `chosen` that change nothing in this config, each with the reason."""
    for keys, idle, reason in _idle_options(config):
        if idle:
            yield from ((key, reason) for key in keys if key in chosen)


def _idle_options(config: Config) -> list[tuple[tuple[str, ...], bool, str]]:
    sgd, adam = config.optim.name == "sgd", config.optim.name in ("adam", "adamw")
    schedule = config.schedule
    late = schedule.name == "multistep" and any(at >= config.train.epochs for at in schedule.milestones)
    # A learning rate that was chosen has no warm-up unless one is set: see training/defaults.py.
    chosen_rate = config.optim.lr is not None and schedule.name != "onecycle"
    no_crop = not config.data.augment.random_resized_crop
    return [
        (("optim.momentum", "optim.nesterov"), not sgd, "only optim.name: sgd uses it"),
        (("optim.betas", "optim.eps"), not adam, "only optim.name: adam and adamw use it"),
        (("schedule.milestones", "schedule.gamma"), schedule.name != "multistep", "only multistep uses it"),
        (("schedule.milestones",), late, "training ends before the last of them (train.epochs)"),
        (("schedule.final",), schedule.name not in ("cosine", "onecycle"), "only cosine and onecycle use it"),
        (
            ("schedule.warmup_start",),
            schedule.warmup_epochs == 0 or (schedule.warmup_epochs is None and chosen_rate),
            "there is no warm-up (schedule.warmup_epochs)",
        ),
        (
            ("data.res_ramp",),
            config.data.start_res is None,
            "there is no progressive resizing (data.start_res)",
        ),
        (("eval.compile",), config.train.compile == "off", "training compiles nothing (train.compile)"),
        (("ema.every", "ema.warmup"), config.ema.decay is None, "there is no average without ema.decay"),
        (("data.augment.flip_mode",), not config.data.augment.flip, "only data.augment.flip uses it"),
        (
            ("data.augment.translate_padding",),
            not config.data.augment.translate,
            "only data.augment.translate uses it",
        ),
        (
            ("data.augment.randaugment_ops", "data.augment.randaugment_magnitude"),
            config.data.augment.auto_augment != "randaugment",
            "only data.augment.auto_augment: randaugment uses it",
        ),
        (
            ("data.augment.crop_scale", "data.augment.crop_aspect"),
            no_crop,
            "only data.augment.random_resized_crop uses it",
        ),
        (
            (
                "tracking.wandb_project",
                "tracking.wandb_entity",
                "tracking.wandb_group",
                "tracking.wandb_job_type",
                "tracking.wandb_artifacts",
                "tracking.wandb_alerts",
                "tracking.wandb_watch",
                "tracking.tags",
            ),
            config.tracking.wandb_mode == "off",
            "tracking.wandb is off",
        ),
        (
            ("tracking.notes", "tracking.timeout"),
            not config.tracking.has_trackers,
            "no tracker is on",
        ),
    ]
