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
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any, Literal

import psutil
import torch
from accelerate.tracking import GeneralTracker
from torch import nn

from anynet_dist.config.schema import Config
from anynet_dist.system import distributed
from anynet_dist.system.errors import StoppedEarly, UserError
from anynet_dist.system.files import write_text
from anynet_dist.system.redaction import redact_values
from anynet_dist.system.signals import helpers_spared
from anynet_dist.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

Outcome = Literal["finished", "stopped", "failed"]

EXIT_CODES: dict[Outcome, int] = {"finished": 0, "stopped": StoppedEarly.exit_code, "failed": 1}
WAITING_RECORDS = 1000


def check_trackers(config: Config) -> None:
    """Raise UserError where a tracker that the config asks for is not installed, or needs a login."""
    if config.tracking.wandb != "off":
        _require("wandb", "tracking.wandb")
    if config.tracking.wandb == "online" and distributed.is_main():
        _check_login()
    if config.tracking.tensorboard:
        _require("tensorboard", "tracking.tensorboard")


def _require(package: str, option: str) -> None:
    if find_spec(package) is None:
        raise UserError(
            f"{option} needs {package}, which is not installed: pip install 'anynet-dist[{package}]'"
        )


def _check_login() -> None:
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise UserError(
            "tracking.wandb: online needs a login: run 'wandb login', set WANDB_API_KEY, or take"
            " --tracking.wandb offline"
        )


class Trackers:
    """Hands records to the trackers on a thread of its own, so that a slow one never holds up training.

    The first failure of a tracker is told once, and the run goes on without it.
    """

    def __init__(self, config: Config, folder: RunFolder) -> None:
        """Start what the config asks for; for rank 0."""
        self.started: list[GeneralTracker] = []
        self.timeout = config.tracking.timeout
        if config.tracking.wandb != "off":
            self.started.append(_start_wandb(config, folder))
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
        """Write out what is waiting and say how the run ended, within the time that the config grants."""
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
                "Weights & Biases did not finish within %.0f s: 'wandb sync' uploads the rest",
                self.timeout,
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


def _start_wandb(config: Config, folder: RunFolder) -> GeneralTracker:
    """Start in the mode that the config asks for; offline, with a warning, where the service is away."""
    # wandb keeps offline records in memory for 15 s unless told otherwise: a killed run would lose them.
    os.environ.setdefault("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "1")
    try:
        return _wandb_tracker(config, folder, config.tracking.wandb)
    except Exception as error:  # whatever keeps wandb from starting must not keep the run from it
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        logger.warning(
            "Weights & Biases is out of reach: its records stay in %s, to be sent with 'wandb sync' (%s)",
            folder.path / "wandb",
            first_line,
        )
        _end_wandb_service()
        return _wandb_tracker(config, folder, "offline")


def _wandb_tracker(config: Config, folder: RunFolder, mode: str) -> GeneralTracker:
    import wandb
    from accelerate.tracking import WandBTracker

    shown = redact_values(asdict(config))
    tracker = WandBTracker(
        shown["tracking"]["wandb_project"],
        name=shown["run"]["name"],
        entity=shown["tracking"]["wandb_entity"],
        tags=shown["tracking"]["tags"],
        mode=mode,
        dir=str(folder.path),
        id=_wandb_id(folder),
        resume="allow",
        config=shown,
        settings=wandb.Settings(init_timeout=config.tracking.timeout),
    )
    with helpers_spared(), _redacted_arguments():
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


def _wandb_id(folder: RunFolder) -> str:
    """One id for a run through all its restarts, kept in the run folder."""
    file = folder.path / "wandb" / "id"
    if not file.exists():
        write_text(file, secrets.token_hex(4))
    return file.read_text().strip()


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
