"""Failures during a run, explained: memory that runs out, and processes that have died."""

from __future__ import annotations

import os
import re
import socket
import time
from typing import NamedTuple

import psutil
import torch
from accelerate.utils import gather_object

from anynet_dist.data.batch_plan import BatchPlan
from anynet_dist.system.errors import LostRankError, RunError

OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
LOST_RANK = re.compile(
    r"connection (closed|reset|refused)|broken pipe|timed out|socket (closed|timeout)|\bNCCL\b|\bgloo\b",
    re.IGNORECASE,
)


class Peer(NamedTuple):
    """A process of the run."""

    rank: int
    host: str
    pid: int
    started: float

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.pid} on {self.host})"

    def is_gone(self) -> bool:
        """Whether it no longer runs, as far as this machine can know."""
        return self._status() == psutil.STATUS_DEAD

    def is_stopped(self) -> bool:
        """Whether a signal or a debugger has stopped it, as far as this machine can know."""
        return self._status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)

    def _status(self) -> str | None:
        """psutil's status, STATUS_DEAD for all that has ended; None for a process of another machine."""
        if self.host != socket.gethostname():
            return None
        try:
            process = psutil.Process(self.pid)
            status = process.status()
            over = process.create_time() != self.started or status == psutil.STATUS_ZOMBIE
            return psutil.STATUS_DEAD if over else status
        except psutil.NoSuchProcess:
            return psutil.STATUS_DEAD


def exchange_peers(rank: int) -> list[Peer]:
    """All processes of the run, by rank; called on each of them."""
    process = psutil.Process()
    return list(gather_object([Peer(rank, socket.gethostname(), os.getpid(), process.create_time())]))


def unwell(peers: list[Peer]) -> list[str]:
    """The processes of this machine that are dead or stopped, described."""
    gone = [f"{peer} is gone" for peer in peers if peer.is_gone()]
    return gone + [f"{peer} is stopped and does not answer" for peer in peers if peer.is_stopped()]


def lost_rank(error: BaseException, peers: list[Peer]) -> LostRankError | None:
    """Explains an error of a collective that another process's end or silence has caused; else None."""
    if len(peers) == 1 or not isinstance(error, RuntimeError) or not LOST_RANK.search(str(error)):
        return None
    _await_an_end(peers)
    who = ", ".join(unwell(peers)) or "another rank is gone or no longer answers"
    first_line = str(error).strip().splitlines()[0]
    return LostRankError(
        f"{who} ({first_line}); its own messages say why. The same command with --run.resume auto resumes"
        " from the last checkpoint"
    )


def _await_an_end(peers: list[Peer]) -> None:
    """Give one that is just ending time to be found gone: it has closed its connections before."""
    end = time.monotonic() + 2
    while not unwell(peers) and time.monotonic() < end:
        time.sleep(0.05)


def out_of_memory(
    error: BaseException, plan: BatchPlan, resolution: int, precision: str, device: torch.device
) -> RunError | None:
    """Explains an error of memory that ran out, with what to lower; None for any other."""
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if not known and not (isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error))):
        return None
    remedies = ["lower data.train_res or eval.batch_size, or take a smaller network"]
    if plan.device_batch > 1:
        per_device = plan.global_batch // plan.world_size
        smaller = next(n for n in range(plan.device_batch // 2, 0, -1) if per_device % n == 0)
        accumulated = per_device // smaller
        remedies.insert(
            0,
            f"--train.max_device_batch {smaller} accumulates {accumulated} such batches, for the same"
            f" {plan.global_batch} images per step",
        )
    if precision == "fp32":
        remedies.append("train.precision bf16 halves the activations")
    return RunError(
        f"out of memory on {device} with {plan.device_batch} images of {resolution} x {resolution} in"
        f" {precision} at a time: {'; '.join(remedies)}"
    )
