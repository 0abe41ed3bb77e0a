"""FFCV's view of a file, without the Python tables that it builds for each sample and without its memory map.

FFCV's memory managers make dictionaries of all samples, pages and sizes, which cost seconds and hundreds of
MB where there are a million, in each process. Our compiled code takes start and size from the BetonTable and
reads the file itself, so it needs nothing of a memory manager.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np

from anynet_dist.data.loaders.ffcv_parts import MemoryContext, MemoryManager, Reader, loader_module


class _NoContext(MemoryContext):
    """An epoch that needs no preparation."""

    @property
    def state(self) -> tuple[()]:
        return ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        pass


class NoMemory(MemoryManager):
    """A memory manager that holds nothing."""

    def __init__(self, reader: Reader) -> None:
        # not MemoryManager's own, which builds the tables
        self.reader = reader
        reader.alloc_table = None  # 24 bytes a sample that nobody asks for again
        self.ptrs = self.sizes = np.zeros(0, np.uint64)

    def schedule_epoch(self, batches: Any) -> MemoryContext:
        """There is nothing to schedule."""
        return _NoContext()

    @property
    def state_type(self) -> Any:
        """The type of an empty tuple, which is the state of an epoch here."""
        return numba.typeof(())

    def compile_reader(self) -> Callable[..., Any]:
        """What FFCV's decoders would call; ours reads the file itself."""

        def read(address: int, state: Any) -> Any:
            raise RuntimeError("FFCV's own decoders cannot be used here: nothing is held in memory for them")

        return read


@contextmanager
def no_memory_manager() -> Iterator[None]:
    """FFCV Loaders made in this block use NoMemory."""
    usual = loader_module.OSCacheManager
    loader_module.OSCacheManager = NoMemory
    try:
        yield
    finally:
        loader_module.OSCacheManager = usual
