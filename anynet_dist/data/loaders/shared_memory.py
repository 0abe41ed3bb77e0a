"""How a worker process hands over a batch: in shared memory, or through a pipe where that is too small."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anynet_dist.system.errors import UserError
from anynet_dist.system.limits import names_open_files, too_many_open_files

Array = TypeVar("Array", bound=NDArray[np.generic])

logger = logging.getLogger(__name__)

FOLDER = Path("/dev/shm")  # noqa: S108
MORE = "give it more room (docker run --shm-size=8g, or --ipc=host), or lower data.workers or the batch"


def hand_over(array: Array) -> Tensor | Array:
    """A part of a batch in shared memory; as it is, to be copied through a pipe, where there is no room.

    Torch itself shares what is put into a queue on a thread of that queue: there an error would be printed,
    and the batch would never arrive.
    """
    try:
        return torch.from_numpy(array).share_memory_()
    except RuntimeError as error:
        if names_open_files(error):
            raise UserError(too_many_open_files()) from None
        return array


def tell_of_pipes(batch_bytes: int) -> None:
    """Say why batches come through pipes; to be called once."""
    logger.warning(
        "%s does not hold the loader's batches of %s, so they are copied through pipes, which is slower: %s",
        _room(),
        _size(batch_bytes),
        MORE,
    )


def check_start(context: BaseContext | None) -> None:
    """Raise UserError where worker processes cannot start, for the semaphores of their queues lie in it."""
    try:
        (context or multiprocessing.get_context()).Semaphore()
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise
        why = error.strerror or str(error)
        raise UserError(f"{_room()} has no room for the loader's worker processes ({why}): {MORE}") from None


def _room() -> str:
    """The folder with its size and what is free."""
    try:
        about = os.statvfs(FOLDER)
    except OSError as error:
        return f"{FOLDER} ({error.strerror})"
    total, free = about.f_blocks * about.f_frsize, about.f_bavail * about.f_frsize
    return f"{FOLDER} ({_size(total)}, {_size(free)} free)"


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"
