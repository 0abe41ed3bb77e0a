"""What a resumed run does differently from before, and whether that is allowed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import yaml

from anynet_dist.config import Config
from anynet_dist.config.options import option_of
from anynet_dist.runs.checkpoint import Checkpoint
from anynet_dist.runs.plugin_files import kept_names
from anynet_dist.runs.progress import RunContext
from anynet_dist.system.errors import UserError
from anynet_dist.system.redaction import redact_values

logger = logging.getLogger(__name__)

HARMLESS_SECTIONS = ("run.", "tracking.", "checkpoint.", "log.")
HARMLESS = {
    "data.loader",
    "data.test",
    "data.workers",
    "speed.collect_garbage_every",
    "speed.copy_ahead",
    "speed.gradient_bucket_view",
    "eval.batch_size",
    "eval.every",
    "eval.flip",
    "train.activation_checkpointing",
    "train.compile",
    "train.deterministic",
    "train.early_stopping",
    "train.epochs",
    "train.log_every",
    "train.max_bad_steps",
    "train.max_device_batch",
    "train.max_steps",
    "train.memory_format",
    "train.profile",
    "train.profile_startup",
}
PATHS = {"data.train": "train", "data.val": "val"}


class Change(NamedTuple):
    """An option, or a fact, that is not what it was."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.before)} -> {_shown(self.now)}"


def _shown(value: Any) -> str:
    if value is None:
        return "None"
    return yaml.safe_dump(value, default_flow_style=True, width=1e6).partition("\n")[0]


def check_changes(checkpoint: Checkpoint, config: Config, now: RunContext) -> None:
    """Log what differs from the run that wrote `checkpoint`; `config` must be resolved.

    Raises UserError, naming each change with both values, when some of them change the result of the
    training, unless run.allow_config_change is set.
    """
    before = checkpoint.context
    changes = [*_option_changes(checkpoint, config), *_other_facts(before, now)]
    refused = [change for change in changes if not _is_harmless(change, before, now)]
    if refused and not config.run.allow_config_change:
        listed = "".join(f"\n  {change}" for change in refused)
        raise UserError(
            f"{checkpoint.path} belongs to a run with other options, which change its result:{listed}\n"
            "restore them, start another run with --run.dir, or resume in spite of them with"
            " --allow-config-change"
        )
    for change in changes:
        logger.log(logging.WARNING if change in refused else logging.INFO, "changed since then: %s", change)


def _option_changes(checkpoint: Checkpoint, config: Config) -> Iterator[Change]:
    # A checkpoint's config has no credentials: they are not compared.
    before = redact_values(_later_options(checkpoint.options) | dict(checkpoint.options))
    now = redact_values(dict(_flatten(asdict(config))))
    before = {key: value for key, value in before.items() if value != {}}  # a mapping without entries
    for options in (before, now):  # whose files were compared before: one that has moved is the same
        options["plugins"] = kept_names(options.get("plugins") or [])
    for key in dict.fromkeys([*before, *now]):
        if before.get(key) != now.get(key) and key not in ("run.resume", "run.allow_config_change"):
            yield Change(key, before.get(key), now.get(key))


def _later_options(saved: Mapping[str, Any]) -> dict[str, Any]:
    """What a run of an earlier version did by options that came later: their defaults."""
    known = {option_of(key) for key in saved}
    return {key: value for key, value in _flatten(asdict(Config())) if key not in known}


def _flatten(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value


def _other_facts(before: RunContext, now: RunContext) -> Iterator[Change]:
    for split in before.data.keys() & now.data.keys():
        if before.data[split] != now.data[split]:
            yield Change(f"the classes and labels of data.{split}", before.data[split], now.data[split])
    for fact in ("precision", "world_size", "device_batch"):
        if getattr(before, fact) != getattr(now, fact):
            yield Change(fact, getattr(before, fact), getattr(now, fact))


def _is_harmless(change: Change, before: RunContext, now: RunContext) -> bool:
    if change.key in PATHS:  # the same images may lie elsewhere, for example on a node's own disk
        split = PATHS[change.key]
        return split in before.data and before.data[split] == now.data.get(split)
    if change.key in ("world_size", "device_batch", "the classes and labels of data.test"):
        return True
    return change.key in HARMLESS or (change.key.startswith(HARMLESS_SECTIONS) and change.key != "run.seed")
