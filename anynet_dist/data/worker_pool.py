"""Work on ranges of samples in worker processes, with the results in order, that never outlives its
parent."""

from __future__ import annotations

import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from anynet_dist.data.workers import end_with_parent, most_workers, process_context
from anynet_dist.system.errors import UserError
from anynet_dist.system.signals import STOP_SIGNALS, stop_signals_blocked

CHUNK = 32

Result = TypeVar("Result")


def map_ranges(
    function: Callable[[int, int], Result], count: int, workers: int, chunk: int = CHUNK
) -> Iterator[Result]:
    """function(first, last) for the ranges of `chunk` that make up 0 .. count-1, in order; at most a few
    results are held at a time.

    With one worker it runs in this process. Raises UserError when a worker process is killed.
    """
    if not 1 <= workers <= most_workers():
        raise UserError(f"workers must be between 1 and {most_workers()}, not {workers}")
    ranges = [(first, min(first + chunk, count)) for first in range(0, count, chunk)]
    if workers == 1:
        yield from (function(*bounds) for bounds in ranges)
        return
    function(0, 1)  # imports the decoders, which forked workers then need not do
    pool = ProcessPoolExecutor(workers, process_context(), _start_worker, (function,))
    waiting: deque[Future[Result]] = deque()
    try:
        for bounds in ranges:
            # This may fork, and python loses an exception that a signal raises while it does so.
            with stop_signals_blocked():
                waiting.append(pool.submit(_run_worker, *bounds))
            if len(waiting) > workers + 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed (out of memory? use fewer workers) or could not start"
            " (a script of your own needs `if __name__ == '__main__':`)"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_function: Callable[[int, int], Any] | None = None


def _start_worker(function: Callable[[int, int], Any]) -> None:
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    end_with_parent()
    if "torch" in sys.modules:  # a forked child that starts torch's threads hangs
        sys.modules["torch"].set_num_threads(1)


def _run_worker(first: int, last: int) -> Any:
    assert _function is not None
    return _function(first, last)
