"""All trackers of a run: views of its log that cannot harm it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from anynet_dist.config.errors import ConfigError
from anynet_dist.config.schema import Config
from anynet_dist.runs.folder import RunFolder
from anynet_dist.runs.trackers import wandb
from anynet_dist.runs.trackers.base import Entry, Outcome, Row, RunFacts, Tracker
from anynet_dist.runs.trackers.register import require, start_other, tracker_problems
from anynet_dist.runs.trackers.tensorboard import TensorBoard
from anynet_dist.runs.trackers.view import Best, view
from anynet_dist.runs.trackers.wandb_start import brief, check_wandb, end_wandb_service
from anynet_dist.runs.wandb_settings import wandb_settings
from anynet_dist.system import distributed
from anynet_dist.system.install import program

logger = logging.getLogger(__name__)

WAITING_RECORDS = 1000


def check_trackers(config: Config) -> None:
    """Raise UserError where a tracker that the config asks for is unknown, not installed, needs a login, or
    would refuse what it is given; plug-ins must be loaded."""
    tracking = config.tracking
    problems = list(tracker_problems(config))
    if problems:
        raise ConfigError(problems)
    if tracking.wandb_mode != "off":
        settings = wandb_settings(config)
        if settings.mode != "off":
            require("wandb", "tracking.wandb")
        if distributed.is_main():
            check_wandb(settings)
    if tracking.uses_tensorboard:
        require("tensorboard", "tracking.tensorboard")


class Trackers:
    """Hands records to the trackers on a thread of its own, so that a slow one never holds up training.

    The first failure of a tracker is logged once, and the run continues without it.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        facts: RunFacts,
        kept: Sequence[Mapping[str, Any]] = (),
        step: int = 0,
    ) -> None:
        """Start what the config asks for; for rank 0. A run that is resumed at `step` hands over the records
        that it keeps, in which a tracker may have gaps."""
        self.timeout = config.tracking.timeout
        self.best = Best(facts.score)
        self.broken: set[str] = set()
        self.tasks: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING_RECORDS)
        self.thread = threading.Thread(target=self._work, name="trackers", daemon=True)
        self.started = list(_start(config, folder, facts, step))
        if not self.started:
            return
        self.thread.start()
        entries = [self._entry(record, number) for number, record in enumerate(kept, 1)]
        self._each(lambda tracker: tracker.catch_up(entries))

    def _work(self) -> None:
        while (task := self.tasks.get()) is not None:
            task()
            self.tasks.task_done()

    def _entry(self, record: Mapping[str, Any], number: int) -> Entry:
        return Entry(number, record["step"], view(record) | self.best.update(record))

    def log(self, record: Mapping[str, Any], number: int) -> None:
        """Show the numbers of a record, line `number` of the log."""
        entry = self._entry(record, number)
        self._each(lambda tracker: tracker.log(entry))

    def show_pictures(self, pictures: Mapping[str, Path], step: int) -> None:
        """Show PNG or JPEG files by name, such as `test/confusion`, where a tracker can. The files stay."""
        self._each(lambda tracker: tracker.show_pictures(pictures, step), vital=False)

    def show_table(self, name: str, columns: Sequence[str], rows: Sequence[Row], step: int) -> None:
        """Show a table, where a tracker can."""
        self._each(lambda tracker: tracker.show_table(name, columns, rows, step), vital=False)

    def show_network(self, network: nn.Module, resolution: int, resumed: bool) -> None:
        """Show the network before it trains: its graph in TensorBoard, its gradients in Weights & Biases."""
        for tracker in self.started:
            self._guarded(tracker, lambda found: found.watch(network, resolution, resumed), vital=False)

    def _each(self, action: Callable[[Tracker], None], vital: bool = True) -> None:
        """Do something with each tracker, later; one that fails in what is `vital` is left out then."""
        for tracker in self.started:
            if tracker.name not in self.broken:
                try:
                    self.tasks.put_nowait(lambda tracker=tracker: self._guarded(tracker, action, vital))  # type: ignore[misc]
                except queue.Full:
                    self._give_up(tracker, f"it no longer takes records, {WAITING_RECORDS} are waiting")

    def _guarded(self, tracker: Tracker, action: Callable[[Tracker], None], vital: bool) -> None:
        if tracker.name in self.broken:
            return
        try:
            action(tracker)
        except Exception as error:  # whatever a tracker raises must not end the run
            if vital:
                self._give_up(tracker, str(error) or type(error).__name__)
            else:
                logger.warning("%s cannot show what it was given: %s", tracker.name, brief(error))

    def _give_up(self, tracker: Tracker, why: str) -> None:
        self.broken.add(tracker.name)
        logger.warning(
            "%s failed and is left out from here on; metrics.jsonl has it all: %s", tracker.name, why
        )

    def finish(self, outcome: Outcome, why: str | None = None) -> None:
        """Write what is waiting, and how and why the run ended, within the time that the config grants."""
        if not self.started:
            return
        self._each(lambda tracker: tracker.finish(outcome, why))
        try:
            self.tasks.put(None, timeout=self.timeout)
        except queue.Full:
            pass
        else:
            self.thread.join(self.timeout)
        self._end_late()
        self.started.clear()

    def _end_late(self) -> None:
        """Leave trackers that are still busy, and say so."""
        names = [tracker.name for tracker in self.started]
        late = self.thread.is_alive()
        if late and "wandb" in names:
            logger.warning(
                "Weights & Biases did not finish within %.0f s: '%s sync' uploads the rest",
                self.timeout,
                program("wandb"),
            )
        elif late:
            logger.warning("%s did not finish within %.0f s", ", ".join(names), self.timeout)
        if "wandb" in self.broken or (late and "wandb" in names):
            end_wandb_service()


def _start(config: Config, folder: RunFolder, facts: RunFacts, step: int) -> Iterator[Tracker]:
    tracking = config.tracking
    starts: dict[str, Callable[[], Tracker | None]] = {}
    if tracking.uses_tensorboard:  # first: it traces the network, which wandb may watch
        starts["tensorboard"] = lambda: TensorBoard(config, folder, facts, step)
    if tracking.wandb_mode != "off":
        starts["wandb"] = lambda: wandb.start(config, folder, facts)
    for name in tracking.others:
        starts[name] = lambda name=name: start_other(name, config, folder, facts)  # type: ignore[misc]
    for name, start in starts.items():
        try:
            if tracker := start():
                yield tracker
        except Exception as error:  # whatever keeps a tracker from starting must not keep the run from it
            logger.warning("%s does not start, and the run continues without it: %s", name, brief(error))
