"""Weights & Biases and TensorBoard, by accelerate's trackers: views of the log that cannot harm a run."""

from __future__ import annotations

import logging
import os
import queue
import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from importlib.util import find_spec
from typing import Any, Literal

import psutil
import torch
from accelerate.tracking import GeneralTracker
from pydantic import ValidationError
from torch import nn

from anynet_dist.config.schema import Config
from anynet_dist.runs.folder import RunFolder
from anynet_dist.runs.wandb_settings import WandbSettings, log_left_out, wandb_settings
from anynet_dist.system import distributed
from anynet_dist.system.errors import StoppedEarly, UserError
from anynet_dist.system.files import write_text
from anynet_dist.system.install import install_command, program
from anynet_dist.system.redaction import redact, redact_values
from anynet_dist.system.signals import children_ignore_stop_signals

logger = logging.getLogger(__name__)

Outcome = Literal["finished", "pruned", "stopped", "failed"]

EXIT_CODES: dict[Outcome, int] = {"finished": 0, "pruned": 0, "stopped": StoppedEarly.exit_code, "failed": 1}
WAITING_RECORDS = 1000


def check_trackers(config: Config) -> None:
    """Raise UserError where a tracker that the config asks for is not installed, needs a login, or would
    refuse what it is given."""
    if config.tracking.wandb != "off":
        settings = wandb_settings(config)
        if settings.mode != "off":
            _require("wandb", "tracking.wandb")
        if distributed.is_main():
            _check_wandb(settings)
    if config.tracking.tensorboard:
        _require("tensorboard", "tracking.tensorboard")


def _require(package: str, option: str) -> None:
    if find_spec(package) is None:
        raise UserError(f"{option} needs {package}, which is not installed: {install_command(package)}")


def _check_wandb(settings: WandbSettings) -> None:
    log_left_out(settings)
    if settings.mode == "off":
        logger.info("Weights & Biases is off: by WANDB_MODE or WANDB_DISABLED")
        return
    import wandb

    try:
        wandb.Settings().update_from_env_vars(dict(os.environ))
        known = settings.mode == "offline" or wandb.login(prompt=False, verify=False)
    except Exception as error:  # of many kinds: a key or a variable that wandb cannot use
        raise UserError(f"Weights & Biases cannot use the environment's settings: {_brief(error)}") from None
    if not known:
        raise UserError(
            f"tracking.wandb: online needs a login: run '{program('wandb')} login', set WANDB_API_KEY, or"
            " take --tracking.wandb offline"
        )


def _brief(error: Exception) -> str:
    """An error in one line, without what it was given, which may be a secret."""
    if isinstance(error, ValidationError):
        found = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, found['loc']))}: {found['msg']}"
    return (str(error).splitlines() or [type(error).__name__])[0]


class Trackers:
    """Hands records to the trackers on a thread of its own, so that a slow one never holds up training.

    The first failure of a tracker is logged once, and the run continues without it.
    """

    def __init__(self, config: Config, folder: RunFolder) -> None:
        """Start what the config asks for; for rank 0."""
        self.started: list[GeneralTracker] = []
        self.timeout = config.tracking.timeout
        if config.tracking.wandb != "off":
            self.started += _start_wandb(config, folder)
        if config.tracking.tensorboard:
            from accelerate.tracking import TensorBoardTracker

            tensorboard = TensorBoardTracker("tensorboard", folder.path)
            tensorboard.start()
            self.started.append(tensorboard)
        self.broken: set[str] = set()
        self.tasks: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING_RECORDS)
        self.thread = threading.Thread(target=self._work, name="trackers", daemon=True)
        if self.started:
            self.thread.start()

    def _work(self) -> None:
        while (task := self.tasks.get()) is not None:
            task()

    def log(self, values: dict[str, Any], step: int) -> None:
        """Show values at a step, a number of global batches."""
        for tracker in self.started:
            if tracker.name not in self.broken:
                self._later(tracker, lambda tracker=tracker: _log(tracker, values, step))  # type: ignore[misc]

    def _later(self, tracker: GeneralTracker, action: Callable[[], None]) -> None:
        def guarded() -> None:
            if tracker.name not in self.broken:
                try:
                    action()
                except Exception as error:  # whatever a tracker raises must not end the run
                    self._give_up(tracker, str(error) or type(error).__name__)

        try:
            self.tasks.put_nowait(guarded)
        except queue.Full:
            self._give_up(tracker, f"it no longer takes records, {WAITING_RECORDS} are waiting")

    def _give_up(self, tracker: GeneralTracker, why: str) -> None:
        self.broken.add(tracker.name)
        logger.warning(
            "%s failed and is left out from here on; metrics.jsonl has it all: %s", tracker.name, why
        )

    def finish(self, outcome: Outcome) -> None:
        """Write what is waiting and how the run ended, within the time that the config grants."""
        if not self.started:
            return
        for tracker in self.started:
            self._later(tracker, lambda tracker=tracker: _finish(tracker, outcome))  # type: ignore[misc]
        try:
            self.tasks.put(None, timeout=self.timeout)
        except queue.Full:
            pass
        else:
            self.thread.join(self.timeout)
        if self.thread.is_alive():
            logger.warning(
                "Weights & Biases did not finish within %.0f s: '%s sync' uploads the rest",
                self.timeout,
                program("wandb"),
            )
        if self.thread.is_alive() or "wandb" in self.broken:
            _end_wandb_service()
        self.started.clear()

    def show_graph(self, network: nn.Module, config_text: str, resolution: int) -> None:
        """Show the network's graph on an example input, and the config, in TensorBoard where it is on."""
        for tracker in self.started:
            if tracker.name == "tensorboard":
                was_training = network.training
                device = next(network.parameters()).device
                example = torch.zeros(1, 3, resolution, resolution, device=device)
                tracker.tracker.add_graph(network.eval(), example)
                network.train(was_training)
                tracker.tracker.add_text("config", f"```yaml\n{config_text}\n```")


def _log(tracker: GeneralTracker, values: dict[str, Any], step: int) -> None:
    if tracker.name == "wandb":
        # wandb drops points below a resumed run's own step, so the step is a value like the others.
        tracker.log({**values, "global_step": step})
    else:
        tracker.log(values, step=step)


def _finish(tracker: GeneralTracker, outcome: Outcome) -> None:
    if tracker.name != "wandb":
        tracker.finish()
        return
    if outcome == "stopped":
        tracker.tracker.mark_preempting()
    tracker.tracker.finish(exit_code=EXIT_CODES[outcome])


def _start_wandb(config: Config, folder: RunFolder) -> list[GeneralTracker]:
    """Start in the mode that is asked for; offline, with a warning, where the service is away."""
    settings = wandb_settings(config)
    # wandb keeps offline records in memory for 15 s by default: a killed run would lose them.
    os.environ.setdefault("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "1")
    for mode in {"online": ("online", "offline"), "offline": ("offline",)}.get(settings.mode, ()):
        try:
            return [_wandb_tracker(config, folder, replace(settings, mode=mode))]
        except Exception as error:  # whatever keeps wandb from starting must not keep the run from it
            _log_why(error, mode, folder)
            _end_wandb_service()
    return []


def _log_why(error: Exception, mode: str, folder: RunFolder) -> None:
    if mode == "offline":
        logger.warning("Weights & Biases does not start, and the run continues without it: %s", _brief(error))
        return
    logger.warning(
        "Weights & Biases is out of reach: its records stay in %s, to be sent with '%s sync' (%s)",
        folder.path / "wandb",
        program("wandb"),
        _brief(error),
    )


def _wandb_tracker(config: Config, folder: RunFolder, settings: WandbSettings) -> GeneralTracker:
    import wandb
    from accelerate.tracking import WandBTracker

    tracker = WandBTracker(
        redact(settings.project),
        name=redact(settings.name) if settings.name else None,
        entity=settings.entity,
        group=config.tracking.wandb_group,  # None: wandb looks at its own variables
        job_type=config.tracking.wandb_job_type,
        tags=redact_values(list(settings.tags)),
        mode=settings.mode,
        dir=str(folder.path),
        id=_wandb_id(folder, settings.run_id),
        resume="allow",
        config=redact_values(asdict(config)),
        settings=wandb.Settings(init_timeout=config.tracking.timeout),
    )
    with children_ignore_stop_signals(), _redacted_arguments():
        tracker.start()
    tracker.tracker.define_metric("*", step_metric="global_step")
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


def _end_wandb_service() -> None:
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
