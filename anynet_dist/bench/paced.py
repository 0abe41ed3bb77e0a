"""Trainings in processes of their own that stand still but for their turn.

Each is warm before the first is measured, and stopped as a whole, with its loader's processes, while others
have their turn. Its processor time counts from the end of its last turn: what its loader prepares
meanwhile is paid for.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psutil

from anynet_dist.bench.process import cpu_seconds
from anynet_dist.bench.rounds import Timing, in_turn
from anynet_dist.system.errors import UserError

GO_ON, END = "go on", "end"
END_PATIENCE = 10
"""Seconds that a training has to close its loader."""
PRELOADED = ["anynet_dist.training.trainer"]


@dataclass(frozen=True, kw_only=True)
class Pacing:
    """How long to measure."""

    rounds: int = 5
    steps: int = 10
    """Steps of a training in a round."""
    warm_up: int = 3
    """Steps before the first round."""
    threads: int | None = None
    """Threads on a CPU; by default torch's choice."""


@dataclass(frozen=True)
class Turn:
    """What a round of one training took."""

    images: int
    seconds: float
    cpu_seconds: float


class Pace:
    """What a training calls after each step; it returns when the next step may begin."""

    def __init__(self, connection: Connection, pacing: Pacing) -> None:
        self.threads = pacing.threads
        self._connection, self._steps = connection, pacing.steps
        self._left, self._images = pacing.warm_up, 0
        self._began, self._cpu = time.perf_counter(), 0.0

    def after_step(self, images: int) -> None:
        """A step of so many images is done."""
        self._images += images
        self._left -= 1
        if self._left:
            return
        _wait_for_device()
        seconds, cpu = time.perf_counter() - self._began, cpu_seconds()
        self._connection.send(Turn(self._images, seconds, cpu - self._cpu))
        if self._connection.recv() == END:
            raise _Ended
        self._left, self._images, self._cpu = self._steps, 0, cpu
        self._began = time.perf_counter()


Train = Callable[[Pace], None]
"""Trains until it is ended, and tells its pace after each step; it can be pickled."""


def alternate_trainings(trainings: Mapping[str, Train], pacing: Pacing) -> dict[str, tuple[int, Timing]]:
    """Images of a round and what the rounds took, for each training: its steps in turn in every round.

    Raises UserError with what one of them failed of.
    """
    timings = {name: Timing() for name in trainings}
    images = dict.fromkeys(trainings, 0)
    with ExitStack() as stack:
        processes = {}
        for name, train in trainings.items():  # one after the other: what one compiles, the next finds
            processes[name] = _Process(name, train, pacing)
            stack.callback(processes[name].end)
            processes[name].wait()
        for name in in_turn(list(trainings), pacing.rounds):
            turn = processes[name].turn()
            images[name] = turn.images
            timings[name].wall.append(turn.seconds)
            timings[name].cpu.append(turn.cpu_seconds)
    return {name: (images[name], timings[name]) for name in trainings}


class _Process:
    """A training's process, as the one that measures sees it."""

    def __init__(self, name: str, train: Train, pacing: Pacing) -> None:
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(PRELOADED)
        self.name = name
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_train, args=(train, theirs, pacing))
        self._process.start()
        theirs.close()

    def wait(self) -> Turn:
        """What it sends when its turn is over; it then stands still."""
        try:
            message = self._connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise UserError(f"{self.name} ended without a word (exit code {code})") from None
        if not isinstance(message, Turn):
            raise UserError(f"{self.name}: {message}")
        self._all("suspend")
        return message

    def turn(self) -> Turn:
        """Let it have a turn."""
        self._all("resume")
        self._connection.send(GO_ON)
        return self.wait()

    def end(self) -> None:
        """End it and the processes that it started."""
        self._all("resume")
        with suppress(OSError):  # it has ended already
            self._connection.send(END)
        self._process.join(END_PATIENCE)
        self._all("kill")
        self._process.join()
        self._connection.close()

    def _all(self, action: str) -> None:
        with suppress(psutil.NoSuchProcess):
            this = psutil.Process(self._process.pid)
            for process in (this, *this.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    getattr(process, action)()


class _Ended(BaseException):
    """The measurement is over."""


def _train(train: Train, connection: Connection, pacing: Pacing) -> None:
    """What the process runs; its output is dropped."""
    import torch

    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    if pacing.threads is not None:
        torch.set_num_threads(pacing.threads)
    try:
        train(Pace(connection, pacing))
        connection.send("it ended before it was measured")
    except _Ended:
        pass
    except UserError as error:
        connection.send(str(error))
    except BaseException:
        connection.send(traceback.format_exc().strip().splitlines()[-1])


def _wait_for_device() -> None:
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
