"""Training a population on one machine: a worker process for each GPU, or as many as asked for on a CPU."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from anynet_dist.data.workers import usable_cores
from anynet_dist.sweep.members import trainings_of
from anynet_dist.sweep.population import read_population, write_results
from anynet_dist.sweep.progress import (
    Attempts,
    clock,
    collect,
    end_of,
    read_attempts,
    result_of,
    state_of,
    write_attempts,
)
from anynet_dist.system.errors import RunError, StoppedEarly, UserError

logger = logging.getLogger(__name__)

POLL_S = 1.0


def run_members(folder: Path, parallel: int | None, attempts: int, retry_failed: bool) -> None:
    """Train all members; a second call goes on where the first was interrupted, and a call on another machine
    that sees the same folder shares the work.

    Raises StoppedEarly when it was asked to stop, RunError where members failed, UserError for wrong
    arguments.
    """
    if min(attempts, 1 if parallel is None else parallel) < 1:
        raise UserError("--parallel and --attempts must be at least 1")
    population = read_population(folder)
    if population.kind == "imported":
        raise UserError(f"{folder}: the networks of a published population cannot be trained")
    if population.kind == "searched":
        raise UserError(f"{folder} holds a search: 'anynet sweep search', as it was begun, goes on with it")
    if retry_failed:
        for name in trainings_of(population):
            if read_attempts(folder, name).given_up:
                write_attempts(folder, name, Attempts())
    crew = Crew(folder, trainings_of(population), parallel, attempts)
    with crew.forwarding_signals():
        crew.work()
    write_results(folder, collect(folder))
    failed = [name for name in crew.members if state_of(folder, name) == "failed"]
    if failed:
        raise RunError(
            f"{len(failed)} of {crew.total} members failed: {', '.join(failed[:8])}"
            f"{', ...' if len(failed) > 8 else ''} ('anynet sweep status {folder}' says why;"
            " --retry-failed tries them again)"
        )


class Crew:
    """The workers of this call."""

    def __init__(self, folder: Path, members: list[str], parallel: int | None, attempts: int) -> None:
        self.folder, self.attempts = folder, attempts
        self.members, self.total = members, len(members)
        self.gpus = _gpus()
        self.places = parallel or max(1, len(self.gpus))
        self.workers: dict[int, subprocess.Popen[bytes]] = {}
        self.stop_signal: int | None = None
        self.reported: set[str] = set()
        self.started = time.monotonic()

    def work(self) -> None:
        """Until no member is left for this machine."""
        where = f"{len(self.gpus)} GPUs" if self.gpus else "the CPU"
        logger.info("%d members, %d at a time on %s", self.total, self.places, where)
        self.reported = {member for member in self.members if end_of(self.folder, member)}
        finished_before = len(self.reported)
        while True:
            self._end_workers()
            untaken = self._untaken()
            if self.stop_signal is None and untaken:
                for place in range(min(self.places, untaken + len(self.workers))):
                    if place not in self.workers:
                        self.workers[place] = self._start(place)
            self._report(finished_before)
            if not self.workers:
                break
            time.sleep(POLL_S)
        if self.stop_signal is not None:
            raise StoppedEarly(
                f"{signal.Signals(self.stop_signal).name}: the members' runs are saved;"
                " the same command goes on with them"
            )

    def _untaken(self) -> int:
        """How many members nobody trains yet."""
        unreported = [member for member in self.members if member not in self.reported]
        return sum(state_of(self.folder, each) in ("interrupted", "waiting") for each in unreported)

    def _start(self, place: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "anynet_dist", "sweep", "worker", str(self.folder)]
        environment = dict(os.environ)
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[place % len(self.gpus)]
        else:
            cores, _ = usable_cores()
            environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // self.places)))
        self._log(place).parent.mkdir(exist_ok=True)
        with open(self._log(place), "ab") as log:
            return subprocess.Popen(
                [*words, "--attempts", str(self.attempts)], env=environment, stdout=log, stderr=log
            )

    def _end_workers(self) -> None:
        """Take note of workers that have ended: one that was killed leaves its member to the next."""
        for place, worker in list(self.workers.items()):
            code = worker.poll()
            if code is None:
                continue
            del self.workers[place]
            if code == StoppedEarly.exit_code and self.stop_signal is None:
                self.stop_signal = signal.SIGTERM  # it alone was asked to stop
                self._forward(signal.SIGTERM)
            elif code not in (0, StoppedEarly.exit_code, 130):
                logger.warning("worker %d ended with exit code %d: see %s", place, code, self._log(place))
                self._check_hope(place, code)

    def _check_hope(self, place: int, code: int) -> None:
        """Raise RunError where another worker would end like the one that did with this exit code."""
        if not any((self.folder / name).exists() for name in ("claims", "attempts", "runs")):
            raise RunError(f"the workers cannot start: see {self.folder / 'logs'}")

    def _log(self, place: int) -> Path:
        """Where a worker's output goes."""
        return self.folder / "logs" / f"{socket.gethostname()}-{place}.log"

    def _report(self, before: int) -> None:
        """A line for each member that is finished or given up since the last look."""
        for member in self.members:
            if member in self.reported:
                continue
            state = state_of(self.folder, member)
            if state not in ("finished", "pruned", "failed"):
                continue
            self.reported.add(member)
            if state == "failed":
                logger.warning("%s  failed: %s", member, read_attempts(self.folder, member).reason)
                continue
            write_results(self.folder, collect(self.folder))
            result = result_of(self.folder, member)
            error = "no score" if result is None else f"top-1 error {result.error:.2f} %"
            error = state if state == "pruned" else error
            done = len(self.reported) - before
            left = (time.monotonic() - self.started) / done * (self.total - len(self.reported))
            logger.info(
                "%s  %s  (%d of %d, about %s left)",
                *(member, error, len(self.reported), self.total, clock(left)),
            )

    @contextmanager
    def forwarding_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C let the workers save their runs and stop; the second one ends them."""
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for worker in self.workers.values():
                worker.terminate()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        # A terminal's Ctrl-C reaches the workers by itself.
        if number == signal.SIGTERM or self.stop_signal is not None or not sys.stdin.isatty():
            self._forward(number if self.stop_signal is None else signal.SIGKILL)
        self.stop_signal = number

    def _forward(self, number: int) -> None:
        for worker in self.workers.values():
            if worker.poll() is None:
                worker.send_signal(number)


def _gpus() -> list[str]:
    """The GPUs of this machine, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    if visible:
        return visible.split(",")[:count]
    return [str(number) for number in range(count)]
