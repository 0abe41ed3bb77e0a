"""The signals that ask a run to stop, and how to keep them from its child processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Such signals wait until the block is left; in processes that are started in it they keep waiting."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def children_ignore_stop_signals() -> Iterator[None]:
    """Processes started in the block never receive the signals that ask a run to stop.

    Schedulers, launchers and terminals send those to all processes of a run. The run itself then saves
    its state, for which it still needs its children; they end when it asks them to, or is gone.
    """
    with stop_signals_blocked():
        # multiprocessing starts this process of its own at some time, and then unblocks SIGTERM and SIGINT.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        yield
