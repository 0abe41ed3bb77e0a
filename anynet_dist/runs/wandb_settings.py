"""Where a run goes in Weights & Biases: by its config, and by the WANDB_* variables of the environment."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass

from anynet_dist.config.schema import Config
from anynet_dist.config.wandb_names import name_problem, project_problem, split_project, tag_problems
from anynet_dist.system.errors import UserError

logger = logging.getLogger(__name__)

DEFAULT_PROJECT = "anynet"
MODES = ("online", "offline", "dryrun", "disabled")
FORBIDDEN_IN_ID = ":;,#?/'"


@dataclass(frozen=True)
class WandbSettings:
    """Mode, names and tags of a run; `left_out` are the variables that have no effect, and why."""

    mode: str
    project: str
    entity: str | None
    name: str | None
    tags: tuple[str, ...]
    run_id: str | None
    left_out: tuple[str, ...]


def wandb_settings(config: Config, environment: Mapping[str, str] = os.environ) -> WandbSettings:
    """What the config and the environment ask for together. Raises UserError for what W&B would refuse."""
    tracking = config.tracking
    project = tracking.wandb_project or environment.get("WANDB_PROJECT") or DEFAULT_PROJECT
    entity = tracking.wandb_entity or (None if "/" in project else environment.get("WANDB_ENTITY") or None)
    _refuse("WANDB_PROJECT", project_problem(project, entity))
    _refuse("WANDB_ENTITY", name_problem(entity) if entity else None)
    first, project = split_project(project)
    tags = [tag.strip() for tag in environment.get("WANDB_TAGS", "").split(",") if tag.strip()]
    _refuse("WANDB_TAGS", next(tag_problems(tags), None))
    run_id = environment.get("WANDB_RUN_ID") or None
    if run_id and (set(run_id) & set(FORBIDDEN_IN_ID) or run_id != run_id.strip()):
        _refuse("WANDB_RUN_ID", f"must be without any of {' '.join(FORBIDDEN_IN_ID)} (got '{run_id}')")
    return WandbSettings(
        mode=_mode(config, environment),
        project=project,
        entity=entity or first,
        name=environment.get("WANDB_NAME") or config.run.name,
        tags=tuple(dict.fromkeys([*tracking.tags, *tags])),
        run_id=run_id,
        left_out=tuple(_left_out(config, environment)),
    )


def log_left_out(settings: WandbSettings) -> None:
    """Say once which variables have no effect."""
    if settings.left_out:
        logger.warning("Weights & Biases: %s", "; ".join(settings.left_out))


def _refuse(variable: str, problem: str | None) -> None:
    if problem:
        raise UserError(f"{variable}: {problem}")


def _mode(config: Config, environment: Mapping[str, str]) -> str:
    """`off`, `offline` or `online`: what the config asks for, or less where a variable asks for less."""
    if environment.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "y", "on"):
        return "off"
    mode = environment.get("WANDB_MODE")
    if mode and mode not in MODES:
        raise UserError(f"WANDB_MODE: must be one of {', '.join(MODES)} (got '{mode}')")
    if mode == "disabled" or config.tracking.wandb_mode == "off":
        return "off"
    return "offline" if mode in ("offline", "dryrun") else config.tracking.wandb_mode


def _left_out(config: Config, environment: Mapping[str, str]) -> list[str]:
    """Variables without effect, each with what decides instead."""
    tracking = config.tracking
    decides = {
        "WANDB_PROJECT": tracking.wandb_project,
        "WANDB_ENTITY": tracking.wandb_entity,
        "WANDB_RUN_GROUP": tracking.wandb_group,
        "WANDB_JOB_TYPE": tracking.wandb_job_type,
        "WANDB_NOTES": tracking.notes,
        "WANDB_MODE": tracking.wandb_mode if environment.get("WANDB_MODE") == "online" else None,
        "WANDB_DIR": "the run folder",
        "WANDB_RESUME": "allow",
    }
    return [
        f"{name}={environment[name]} has no effect, {instead} is taken"
        for name, instead in decides.items()
        if instead and environment.get(name) not in (None, "", instead)
    ]
