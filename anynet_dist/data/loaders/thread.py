"""A thread that makes batches ahead of their use; whatever happens to it, the caller is not left waiting."""

from __future__ import annotations

import atexit
import logging
import time
from collections.abc import Iterator
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any, Protocol
from weakref import WeakSet

from torch import Tensor

from anynet_dist.data.order import SampleKeys
from anynet_dist.system.errors import RunError

logger = logging.getLogger(__name__)

HostBatch = tuple[Tensor, SampleKeys]
"""Images (B, R, R, 3) uint8 in memory that is used again, and which samples they are."""


class BatchMaker(Protocol):
    """The batches of an epoch, made one by one."""

    def __len__(self) -> int: ...

    def start(self) -> None:
        """Called once, in the thread."""

    def make(self, number: int) -> HostBatch:
        """Batch `number`, in the thread."""

    def describe(self, number: int) -> str:
        """Where and what a batch is, for messages."""


class BatchThread(Thread):
    """The thread of an epoch. Iterating yields its batches, each valid until the next is asked for.

    What the thread raises is raised there, with a note. Raises RunError when it died or made nothing for
    `stall_seconds`; a tenth of that is logged.
    """

    def __init__(self, maker: BatchMaker, batches_ahead: int, stall_seconds: float) -> None:
        """Starts it. It is up to `batches_ahead` finished batches ahead, and makes one more."""
        super().__init__(daemon=True)
        self.maker, self.stall_seconds = maker, stall_seconds
        self.taken, self.stalled = 0, False
        self._queue: Queue[Any] = Queue(batches_ahead)
        self._left = Event()
        _unfinished.add(self)
        self.start()

    def run(self) -> None:
        """Fill the queue with batches, then None, or with the exception that ended it."""
        number = 0
        try:
            self.maker.start()
            for number in range(len(self.maker)):
                if not self._offer(self.maker.make(number)):
                    return
            self._offer(None)
        except BaseException as error:
            error.add_note(f"in FFCV's thread, while making {self.maker.describe(number)}")
            self._offer(error)

    def _offer(self, item: object) -> bool:
        """Put into the queue; False when the epoch was left meanwhile."""
        while not self._left.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return True
            except Full:
                continue
        return False

    def __iter__(self) -> Iterator[HostBatch]:
        while (item := self._take()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def _take(self) -> Any:
        """The next item of the queue."""
        started, warned = time.monotonic(), False
        while (waited := time.monotonic() - started) < self.stall_seconds:
            alive = self.is_alive()  # asked before looking: a thread may put its last item and end
            try:
                item = self._queue.get(timeout=0.5)
            except Empty:
                where = self.maker.describe(self.taken)
                if not alive:
                    raise RunError(f"FFCV's thread died without saying why, while making {where}") from None
                if waited > self.stall_seconds / 10 and not warned:
                    warned = True
                    logger.warning("waiting for %s for %.0f s", where, waited)
            else:
                self.taken += 1
                return item
        self.stalled = True
        raise RunError(
            f"FFCV made nothing in {self.stall_seconds:.0f} s of {self.maker.describe(self.taken)}; "
            "is the disk stuck?"
        )

    def close(self) -> None:
        """End the thread and wait for it, for a moment only if it is stuck."""
        self._left.set()
        if self.is_alive():
            self.join(timeout=2 if self.stalled else 60)
        if self.is_alive():
            logger.warning(
                "FFCV's thread does not end, in an epoch of %d batches; is the disk stuck?", len(self.maker)
            )


_unfinished: WeakSet[BatchThread] = WeakSet()


@atexit.register
def _end_threads() -> None:
    """A thread in compiled code while the interpreter ends aborts the process, so end those left running."""
    for thread in list(_unfinished):
        thread.close()
