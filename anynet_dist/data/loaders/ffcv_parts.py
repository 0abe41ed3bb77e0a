"""The parts of FFCV that we use, imported without what its import does to a process; import them from here.

FFCV's import sets torch's and numba's number of threads to one, for all that runs in the process. It also has
numba compile a dictionary of two entries, for seconds in each process, where a plain one serves as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import numba.typed
import torch


@contextmanager
def kept_threads() -> Iterator[None]:
    """Whatever the block does to torch's and numba's numbers of threads is undone."""
    torch_threads, numba_threads = torch.get_num_threads(), numba.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        numba.set_num_threads(numba_threads)


@contextmanager
def _plain_dictionary() -> Iterator[None]:
    compiled = numba.typed.Dict
    numba.typed.Dict = dict
    try:
        yield
    finally:
        numba.typed.Dict = compiled


with kept_threads(), _plain_dictionary():
    from ffcv import libffcv
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import Loader
    from ffcv.loader import loader as loader_module
    from ffcv.loader.epoch_iterator import EpochIterator
    from ffcv.memory_managers.base import MemoryContext, MemoryManager
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.compiler import Compiler
    from ffcv.pipeline.state import State
    from ffcv.reader import Reader
    from ffcv.transforms import ToTensor
    from ffcv.utils import cast_int_to_byte_ptr

__all__ = [
    "AllocationQuery",
    "Compiler",
    "EpochIterator",
    "Loader",
    "MemoryContext",
    "MemoryManager",
    "Reader",
    "SimpleRGBImageDecoder",
    "State",
    "ToTensor",
    "cast_int_to_byte_ptr",
    "kept_threads",
    "libffcv",
    "loader_module",
]
