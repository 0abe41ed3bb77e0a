"""Failures that no one can foresee, told in words: memory that runs out, and processes that are gone."""

from __future__ import annotations

import os
import re
import socket
import time
from typing import NamedTuple

import psutil
import torch
from accelerate.utils import gather_object

from anynet_dist.system.errors import LostRankError, RunError
from anynet_dist.training.batches import BatchPlan

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
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            return process.create_time() != self.started or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


def meet_peers(rank: int) -> list[Peer]:
    """All processes of the run, by rank; called on each of them."""
    process = psutil.Process()
    return list(gather_object([Peer(rank, socket.gethostname(), os.getpid(), process.create_time())]))


def lost_rank(error: BaseException, peers: list[Peer]) -> LostRankError | None:
    """In words, an error of a collective that another process's end or silence has caused; else None."""
    if len(peers) == 1 or not isinstance(error, RuntimeError) or not LOST_RANK.search(str(error)):
        return None
    gone = [str(peer) for peer in _gone(peers)]
    who = f"{', '.join(gone)} is gone" if gone else "another rank is gone or no longer answers"
    first_line = str(error).strip().splitlines()[0]
    return LostRankError(
        f"{who} ({first_line}); its own messages say why. The same command with --run.resume auto goes on"
        " from the last checkpoint"
    )


def _gone(peers: list[Peer]) -> list[Peer]:
    """Those of this machine that have ended. One that is just ending has closed its connections before."""
    end = time.monotonic() + 2
    while not (gone := [peer for peer in peers if peer.is_gone()]) and time.monotonic() < end:
        time.sleep(0.05)
    return gone


def out_of_memory(
    error: BaseException, plan: BatchPlan, resolution: int, precision: str, device: torch.device
) -> RunError | None:
    """In words, with what to lower, an error of memory that ran out; None for any other."""
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
            f" {plan.global_batch} images a step",
        )
    if precision == "fp32":
        remedies.append("train.precision bf16 halves the activations")
    return RunError(
        f"out of memory on {device} with {plan.device_batch} images of {resolution} x {resolution} in"
        f" {precision} at a time: {'; '.join(remedies)}"
    )
