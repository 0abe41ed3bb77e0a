"""Starting Weights & Biases: what it needs is checked before training; what fails later harms no run."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import Any

import psutil
from accelerate.tracking import GeneralTracker
from pydantic import ValidationError

from anynet_dist.config.schema import Config
from anynet_dist.runs.folder import RunFolder
from anynet_dist.runs.trackers.base import RunFacts
from anynet_dist.runs.wandb_settings import WandbSettings, log_left_out, wandb_settings
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import write_text
from anynet_dist.system.install import program
from anynet_dist.system.redaction import redact, redact_values
from anynet_dist.system.signals import children_ignore_stop_signals

logger = logging.getLogger(__name__)


SERVICE = "WANDB_SERVICE"
"""Where wandb names the helper process that child processes share."""


def check_wandb(settings: WandbSettings) -> None:
    """Raise UserError where wandb cannot use the environment's settings, or needs a login."""
    log_left_out(settings)
    if settings.mode == "off":
        logger.info("Weights & Biases is off: by WANDB_MODE or WANDB_DISABLED")
        return
    import wandb

    try:
        wandb.Settings().update_from_env_vars(dict(os.environ))
        known = settings.mode == "offline" or wandb.login(prompt=False, verify=False)
    except Exception as error:  # of many kinds: a key or a variable that wandb cannot use
        raise UserError(f"Weights & Biases cannot use the environment's settings: {brief(error)}") from None
    if not known:
        raise UserError(
            f"tracking.wandb: online needs a login: run '{program('wandb')} login', set WANDB_API_KEY, or"
            " take --tracking.wandb offline"
        )


def brief(error: Exception) -> str:
    """An error in one line, without what it was given, which may be a secret."""
    if isinstance(error, ValidationError):
        found = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, found['loc']))}: {found['msg']}"
    return (str(error).splitlines() or [type(error).__name__])[0]


def start_wandb(config: Config, folder: RunFolder, facts: RunFacts) -> tuple[GeneralTracker, str] | None:
    """Start in the mode that is asked for; offline, with a warning, where the service is away.

    Returns accelerate's tracker and the mode; None where wandb is off or does not start at all.
    """
    settings = wandb_settings(config)
    # wandb keeps offline records in memory for 15 s by default: a killed run would lose them.
    os.environ.setdefault("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "1")
    for mode in {"online": ("online", "offline"), "offline": ("offline",)}.get(settings.mode, ()):
        try:
            return _init_in_free_service(config, folder, facts, replace(settings, mode=mode)), mode
        except Exception as error:  # whatever keeps wandb from starting must not keep the run from it
            _log_why(error, mode, folder)
            end_wandb_service()
    return None


def _log_why(error: Exception, mode: str, folder: RunFolder) -> None:
    if mode == "offline":
        logger.warning("Weights & Biases does not start, and the run continues without it: %s", brief(error))
        return
    logger.warning(
        "Weights & Biases is out of reach: its records stay in %s, to be sent with '%s sync' (%s)",
        folder.path / "wandb",
        program("wandb"),
        brief(error),
    )


def _init_in_free_service(
    config: Config, folder: RunFolder, facts: RunFacts, settings: WandbSettings
) -> GeneralTracker:
    """Start, with a helper process of one's own where one that is shared holds the id of a killed run."""
    try:
        return _init(config, folder, facts, settings)
    except Exception as error:  # wandb's own, known by its words alone
        if "is in use" not in str(error) or SERVICE not in os.environ:
            raise
    logger.info("Weights & Biases starts a helper process: the one in %s still holds this run's id", SERVICE)
    end_wandb_service()
    os.environ.pop(SERVICE, None)
    return _init(config, folder, facts, settings)


def _init(config: Config, folder: RunFolder, facts: RunFacts, settings: WandbSettings) -> GeneralTracker:
    import wandb
    from accelerate.tracking import WandBTracker

    tracking = config.tracking
    # The console goes there as a whole when the run ends: wandb would send each frame of the progress bar.
    console: dict[str, Any] = {} if os.environ.get("WANDB_CONSOLE") else {"console": "off"}
    tracker = WandBTracker(
        redact(settings.project),
        name=redact(settings.name) if settings.name else None,
        entity=settings.entity,
        group=tracking.wandb_group,  # None: wandb looks at its own variables
        job_type=tracking.wandb_job_type,
        notes=redact(tracking.notes) if tracking.notes else None,
        tags=redact_values(list(settings.tags)),
        mode=settings.mode,
        dir=str(folder.path),
        id=_wandb_id(folder, settings.run_id),
        resume="allow",
        config=redact_values({**asdict(config), "derived": dict(facts.derived)}),
        settings=wandb.Settings(init_timeout=tracking.timeout, **console),
    )
    with children_ignore_stop_signals(), _redacted_arguments():
        tracker.start()
    return tracker


@contextmanager
def _redacted_arguments() -> Iterator[None]:
    """The command line, which wandb copies into its records, without credentials."""
    arguments = sys.argv
    sys.argv = redact_values(arguments)
    try:
        yield
    finally:
        sys.argv = arguments


def _wandb_id(folder: RunFolder, asked: str | None) -> str:
    """One id for a run through all its restarts, kept in the run folder; WANDB_RUN_ID names a new run's."""
    file = folder.path / "wandb" / "id"
    if not file.exists():
        write_text(file, asked or secrets.token_hex(4))
    kept = file.read_text().strip()
    if asked not in (None, kept):
        logger.warning("Weights & Biases: WANDB_RUN_ID=%s has no effect, this run has the id %s", asked, kept)
    return kept


def end_wandb_service() -> None:
    """End wandb's helper processes, for which the end of this process would wait, and its own clean-up."""
    import wandb

    for process in psutil.Process().children(recursive=True):
        try:
            if process.name().startswith(("wandb", "gpu_stats")):
                process.kill()
        except psutil.NoSuchProcess:
            continue
    with suppress(Exception, SystemExit):  # it misses the process just ended
        wandb.teardown()
