"""A process that trains members one after the other, so that only the first of them waits for its start."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from anynet_dist.sweep.members import load_member, trainings_of
from anynet_dist.sweep.population import read_population
from anynet_dist.sweep.progress import (
    Attempts,
    claim_file,
    is_finished,
    read_attempts,
    step_of,
    write_attempts,
)
from anynet_dist.system.errors import StoppedEarly, UserError
from anynet_dist.system.files import write_json
from anynet_dist.system.lock import Lock, is_held

if TYPE_CHECKING:
    from anynet_dist.training.hooks import Hook

logger = logging.getLogger(__name__)

Train = Callable[[Path, str], None]


def work(folder: Path, attempts: int, only: str | None = None, overrides: Sequence[str] = ()) -> None:
    """Train the members that nobody else trains, until there are none, or whoever started this is gone.

    A member that fails is noted and the next one is taken. `overrides` are options of the runs. Raises
    StoppedEarly when it was asked to stop: the member's run is saved and goes on when it is trained again.
    """
    members = trainings_of(read_population(folder))
    if only is not None:
        if only not in members:
            raise UserError(f"{folder} has no member {only} (there are {members[0]} to {members[-1]})")
        members = [only]
    parent = os.getppid()
    try:
        with _stops_noted() as stopped:
            for member in members:
                if os.getppid() != parent:
                    logger.warning("what started this worker is gone: it ends")
                    return
                if stopped:
                    raise StoppedEarly(f"{stopped[0]}: stopping before member {member}")
                _take(folder, member, attempts, overrides)
    except StoppedEarly as stopped_early:
        _ask_for_requeue(str(stopped_early))
        raise


@contextmanager
def _stops_noted() -> Iterator[list[str]]:
    """Signals that come between two members, whose runs handle their own; the names of those that came."""
    came: list[str] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(signal.Signals(number).name)

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ask_for_requeue(reason: str) -> None:
    """Let the job script that started this worker queue it again."""
    mark = os.environ.get("ANYNET_RESUME_MARK")
    if mark:
        write_json(mark, {"reason": reason})


def _take(folder: Path, member: str, attempts: int, overrides: Sequence[str]) -> None:
    """Train a member unless it is finished, given up, or somebody else's."""
    claim = claim_file(folder, member)
    if is_finished(folder, member) or is_held(claim) or read_attempts(folder, member).given_up:
        return
    try:
        lock = Lock(claim, f"member {member} is being trained")
    except UserError:  # another process was quicker
        return
    with lock:
        if not is_finished(folder, member) and not read_attempts(folder, member).given_up:
            train_noted(folder, member, attempts, partial(train, overrides=overrides))


def train(folder: Path, member: str, hooks: Iterable[Hook] = (), overrides: Sequence[str] = ()) -> None:
    """Train a member to the end of its run."""
    from anynet_dist.training.trainer import Trainer

    try:
        Trainer(load_member(folder, member, overrides), hooks).fit()
    finally:
        _forget_run()


def train_noted(folder: Path, member: str, attempts: int, train: Train = train) -> None:
    """Train a member, and note a failure; after `attempts` of them it is given up."""
    before, step = read_attempts(folder, member), step_of(folder, member)
    if step > before.step:
        before = Attempts(step=step)  # it got further since
    tried = replace(before, count=before.count + 1)
    if before.count >= attempts:  # its process was killed so often
        write_attempts(folder, member, replace(before, given_up=True))
        logger.warning("member %s: given up after %d attempts", member, before.count)
        return
    write_attempts(folder, member, replace(tried, reason="its process ended without a word"))
    try:
        train(folder, member)
    except (StoppedEarly, KeyboardInterrupt):
        write_attempts(folder, member, before)
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        given_up = tried.count >= attempts
        write_attempts(folder, member, replace(tried, reason=reason, given_up=given_up))
        logger.warning("member %s: %s: %s", member, "given up" if given_up else "will be tried again", reason)
    else:
        write_attempts(folder, member, Attempts())


def _forget_run() -> None:
    """Leave nothing of a run for the next one in this process: accelerate's settings, memory."""
    import torch
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
