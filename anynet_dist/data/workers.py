"""How many cores this process may use for data, and how its worker processes start."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import sys
import threading
from multiprocessing import forkserver
from multiprocessing.context import BaseContext

from anynet_dist.system.choices import note_choice, tell_choice
from anynet_dist.system.errors import UserError
from anynet_dist.system.signals import children_ignore_stop_signals

logger = logging.getLogger(__name__)


def usable_cores() -> tuple[int, str]:
    """Cores this process may run on, and what limits them: SLURM's allotment or the process's affinity."""
    limits = {"this process's CPU affinity": _affinity()}
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if slurm.isdigit() and int(slurm) > 0:
        limits["SLURM_CPUS_PER_TASK"] = int(slurm)
    reason = min(limits, key=limits.__getitem__)
    return limits[reason], reason


def most_workers() -> int:
    """As many as may help even where each waits for a slow disk most of the time; more would only take
    memory."""
    return max(32, 16 * usable_cores()[0])


def choose_workers(requested: int | None, local_world: int, limit: int | None = None) -> int:
    """Threads or processes for one rank's loader: `requested`, or an equal part of the cores, at least 1.

    `local_world` is the number of ranks on this machine, `limit` is what the library allows (numba's
    number of threads). Raises UserError when more is requested.
    """
    cores, reason = usable_cores()
    if requested is not None:
        most = most_workers() if limit is None else limit
        if not 1 <= requested <= most:
            raise UserError(f"workers must be between 1 and {most}, not {requested}")
        note_choice("workers", requested, "as configured")
        return requested
    if limit is not None and limit < cores:
        cores, reason = limit, "numba's number of threads"
    sharing = max(1, local_world // _slurm_tasks_here())
    workers = max(1, cores // sharing)
    why = f"{cores} cores by {reason}, shared by {sharing} ranks"
    tell_choice(logger, "workers", workers, why)
    return workers


def process_context(has_threads: bool = False) -> BaseContext | None:
    """How worker processes start: forked on Linux, which is quick, unless threads run here.

    A child that is forked while others of the process's threads run, numba's or those of a training run,
    may wait for ever for a lock that one of them held. It then comes from a server process that has none,
    and `end_with_parent` must be called in it.
    """
    if sys.platform != "linux":
        return None
    if not has_threads and "numba" not in sys.modules:
        return multiprocessing.get_context("fork")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["anynet_dist.data.loaders.torch"])
    return context


def start_server() -> None:
    """Start the server process that `process_context` may need: it imports torch while others go on."""
    if sys.platform == "linux":
        process_context(has_threads=True)
        with children_ignore_stop_signals():
            forkserver.ensure_running()


def end_with_parent() -> None:
    """End this worker process as soon as the one that wanted it is gone, however that ended.

    The server process ends when it has no worker left and nobody to ask for one.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _slurm_tasks_here() -> int:
    """Tasks srun started on each node: when every rank is a task of its own, the cores above are its
    alone."""
    tasks = re.match(r"\d+", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return max(1, int(tasks.group())) if tasks else 1


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
