"""FFCV's view of a file, without the Python tables that it builds for each sample.

FFCV's memory managers make dictionaries of all samples, pages and sizes, which cost seconds and hundreds of
MB where there are a million, in each process. Our compiled code takes start and size from the BetonTable,
so all it needs of FFCV is the memory map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from ffcv.loader import loader as ffcv_loader
from ffcv.memory_managers.base import MemoryContext, MemoryManager
from ffcv.memory_managers.os_cache import OSCacheContext
from ffcv.reader import Reader


class MappedFile(MemoryManager):
    """The file through one memory map, shared by all processes through the page cache."""

    def __init__(self, reader: Reader) -> None:
        # not MemoryManager's own, which builds the tables
        self.reader = reader
        reader.alloc_table = None  # 24 bytes a sample that nobody asks for again
        self.ptrs = self.sizes = np.zeros(0, np.uint64)
        self.context = OSCacheContext(self)

    def schedule_epoch(self, batches: Any) -> MemoryContext:
        """The map needs no schedule."""
        return self.context

    @property
    def state_type(self) -> Any:
        """Not asked for: nothing is compiled against it."""
        raise NotImplementedError

    def compile_reader(self) -> Callable[..., Any]:
        """FFCV's decoders would call this; ours reads the map itself."""

        def read(address: int, state: Any) -> Any:
            raise NotImplementedError

        return read


@contextmanager
def mapped_files() -> Iterator[None]:
    """FFCV Loaders made in this block use a MappedFile."""
    usual = ffcv_loader.OSCacheManager
    ffcv_loader.OSCacheManager = MappedFile
    try:
        yield
    finally:
        ffcv_loader.OSCacheManager = usual
