"""Checkpoints of a run in progress: a snapshot of its state is taken, then written beside the next steps."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from anynet_dist.config import Config
from anynet_dist.runs.checkpoints import Checkpoints
from anynet_dist.runs.folder import RunFolder
from anynet_dist.runs.metrics_log import RunLog
from anynet_dist.system.choices import note_choice
from anynet_dist.system.errors import RunError
from anynet_dist.training.checkpointing import RunState, Snapshot, take_snapshot
from anynet_dist.training.host_copy import HostCopy

logger = logging.getLogger(__name__)


class CheckpointError(RunError):
    """A checkpoint could not be written; those before it are as they were."""


class Stage(IntEnum):
    """How far a rank is with its part of the checkpoint on its way; the largest one is that of all ranks."""

    DONE = 0
    """Also where nothing is on its way."""
    BUSY = 1
    FAILED = 2


@dataclass
class _Pending:
    """A checkpoint on its way: all ranks write their files, then rank 0 gives it its name."""

    step: int
    written: Future[None]
    """This rank's files."""
    publishing: bool = False
    """Whether rank 0 may go on to publish them. Like all decisions, the same on all ranks."""
    published: Future[None] | None = None
    """On rank 0."""

    @property
    def work(self) -> Future[None] | None:
        """What this rank has to do at present."""
        return self.published if self.publishing else self.written


class Saver:
    """Saves a run, beside its next steps where the config says so and the engine allows it.

    One thread writes one checkpoint at a time. The ranks agree on the main thread only, in `save`, `settle`
    and `finish`, which all of them call. A checkpoint that is not published does not count.
    """

    def __init__(self, state: RunState, folder: RunFolder, checkpoints: Checkpoints, log: RunLog) -> None:
        self.state, self.folder, self.checkpoints, self.log = state, folder, checkpoints, log
        self.background, _ = saves_in_background(state.config, state.context.engine)
        self._executor: Executor = ThreadPoolExecutor(1, "checkpoint") if self.background else _AtOnce()
        self._copies = HostCopy()
        self._allocated: Future[None] | None = None
        self._pending: _Pending | None = None
        self._has_waited = False

    def save(self, required: bool = False) -> None:
        """Take a snapshot and have it written; called on every rank.

        One that is `required` is complete on return. Raises CheckpointError on all ranks where one of them
        could not write its part of this checkpoint or of the one before; where checkpoint.on_error is to
        continue, only for one that is required.
        """
        self._await_previous(required)
        step, must = self.state.progress.step, True if required else None
        snapshot = take_snapshot(self.state, self.log)
        try:
            self._together(lambda: self._begin(step))
        except CheckpointError as error:
            self._fail(step, error, must)
            return
        ready = _nothing
        if self.background:
            (tensors, pickled), ready = self._copies.copy((snapshot.tensors, snapshot.pickled))
            snapshot = replace(snapshot, tensors=tensors, pickled=pickled)
        self._pending = _Pending(step, self._executor.submit(self._write, step, snapshot, ready))
        if self.state.accelerator.num_processes == 1:
            self._publish(self._pending)
        if required or not self.background:
            self.finish(must)

    def stage(self) -> Stage:
        """How far this rank is."""
        work = self._pending.work if self._pending else None
        if work is None:
            return Stage.DONE
        if not work.done():
            return Stage.BUSY
        return Stage.FAILED if work.exception() else Stage.DONE

    def settle(self, stage: int) -> None:
        """Go on with a checkpoint by the largest stage over all ranks; called on every rank after a step.

        Raises CheckpointError as `save` does.
        """
        pending = self._pending
        if pending is None:
            self._allocate_early()
        elif stage == Stage.FAILED:
            self.finish()
        elif stage == Stage.DONE and not pending.publishing:
            self._publish(pending)
        elif stage == Stage.DONE:
            self._pending = None

    def finish(self, raises: bool | None = None) -> None:
        """Wait until the checkpoint that is on its way is published; called on every rank.

        Raises CheckpointError on all ranks where one of them could not write its part, by default unless
        checkpoint.on_error is to continue.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            self._together(pending.written.result)
            if not pending.publishing:
                self._publish(pending)
            self._together(lambda: pending.published.result() if pending.published else None)
        except CheckpointError as error:
            self._fail(pending.step, error, raises)

    def close(self) -> None:
        """End the thread once it has written what it has; does nothing the second time.

        Where ranks are gone, so that it cannot be agreed upon, what was on its way does not count.
        """
        self._executor.shutdown()
        pending, self._pending = self._pending, None
        if pending and not (pending.publishing and self._is_well(pending)):
            logger.warning("the checkpoint of step %d is not complete and does not count", pending.step)

    @staticmethod
    def _is_well(pending: _Pending) -> bool:
        return pending.work is None or pending.work.exception() is None

    def _await_previous(self, required: bool) -> None:
        """Finish the checkpoint before; where the next one is required, its failure is no reason to stop."""
        pending, started = self._pending, time.perf_counter()
        late = self.stage() == Stage.BUSY
        self.finish(raises=False if required else None)
        if pending and late:
            level = logging.DEBUG if self._has_waited else logging.INFO
            self._has_waited = True
            logger.log(
                level,
                "the checkpoint of step %d was not yet written when the next was due: training waited %.1f s",
                *(pending.step, time.perf_counter() - started),
            )

    def _allocate_early(self) -> None:
        """Have the buffers made before the first save, which fresh memory would slow down."""
        if self.background and self._allocated is None:
            snapshot = take_snapshot(self.state, self.log)
            tree = (snapshot.tensors, snapshot.pickled)
            self._allocated = self._executor.submit(self._copies.allocate, tree)

    def _begin(self, step: int) -> None:
        """Make the folder ready, for which all ranks wait."""
        if self._allocated:
            wait([self._allocated])
        if self.state.accelerator.is_main_process:
            self.log.write_waiting()
            self.checkpoints.begin(step)

    def _write(self, step: int, snapshot: Snapshot, ready: Callable[[], None]) -> None:
        """Write this rank's files."""
        ready()
        partial = self.checkpoints.partial(step)
        if self.state.context.engine != "DDP":
            self.state.accelerator.save_state(str(partial))
        snapshot.write(partial)

    def _publish(self, pending: _Pending) -> None:
        pending.publishing = True
        if self.state.accelerator.is_main_process:
            pending.published = self._executor.submit(self._complete, pending)

    def _complete(self, pending: _Pending) -> None:
        """On rank 0: the log is on the disk before the checkpoint that counts its records."""
        pending.written.result()
        self.log.flush_written()
        self.checkpoints.publish(self.checkpoints.partial(pending.step))
        if not self.folder.saved_before():
            self.folder.mark(saved=True)

    def _together(self, action: Callable[[], object]) -> None:
        """Do one's part and wait for the others; raises CheckpointError on all ranks where one has failed."""
        accelerator = self.state.accelerator
        failure: str | None = None
        try:
            action()
        except (OSError, RuntimeError, SafetensorError) as error:
            failure = f"rank {accelerator.process_index}: {error}"
        failed = torch.tensor(float(failure is not None), device=accelerator.device)
        if accelerator.reduce(failed, reduction="sum").item():
            raise CheckpointError(failure or "another rank could not write its part")

    def _fail(self, step: int, error: CheckpointError, raises: bool | None) -> None:
        """Remove what was written, and raise or tell what has happened."""
        if self.state.accelerator.is_main_process:
            with suppress(OSError):  # of the same disk; the first error is the one to show
                self.checkpoints.abandon()
        where = f"{self.checkpoints.folder} ({_free(self.checkpoints.folder)})"
        failure = CheckpointError(f"cannot write the checkpoint of step {step} in {where}: {error}")
        if raises or (raises is None and self.state.config.checkpoint.on_error == "stop"):
            raise failure from error
        logger.warning("%s%s", failure, "; the run continues (checkpoint.on_error)" if raises is None else "")


def saves_in_background(config: Config, engine: str) -> tuple[bool, str]:
    """Whether checkpoints are written beside the next steps, and why not."""
    if not config.checkpoint.in_background:
        return False, "as configured"
    if engine != "DDP":
        return False, f"all ranks have to be at it, for {engine} spreads its state over them"
    return True, ""


def note_saving(config: Config, engine: str) -> None:
    """Note how checkpoints are written."""
    background, why = saves_in_background(config, engine)
    note_choice(
        "checkpoints", "written beside the next steps" if background else "the steps wait for them", why
    )


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free on its disk"
    except OSError as error:
        return str(error.strerror)


class _AtOnce(Executor):
    """Does what is submitted at once, on the thread that submits it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As in Executor."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _nothing() -> None:
    """There is nothing to wait for."""
