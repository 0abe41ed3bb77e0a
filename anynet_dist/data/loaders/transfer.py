"""The last step of every loader: bytes to the device, there to normalised float32 in memory of its own."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from anynet_dist.data.transforms.normalisation import check_normalisation
from anynet_dist.system.choices import tell_choice

logger = logging.getLogger(__name__)


class Transfer:
    """Moves uint8 batches to a device and normalises them there.

    The images handed out are always fresh memory, so a loader may reuse the buffers it read them into,
    once `wait` has returned.
    """

    def __init__(
        self, device: torch.device, mean: Sequence[float], std: Sequence[float], channels_last: bool = False
    ) -> None:
        """`mean` and `std` are per channel, in 0..1; raises UserError where these cannot normalise."""
        check_normalisation(mean, std)
        self.device, self.channels_last = device, channels_last
        self._mean = torch.tensor([255 * value for value in mean], device=device)
        self._inverse_std = torch.tensor([1 / (255 * value) for value in std], device=device)
        # A stream of its own lets a copy run beside the step before, and `wait` return as soon as it is done.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._copied: torch.cuda.Event | None = None
        if device.type == "cpu":
            keep_freed_memory()

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, 3) uint8 and (B,) int64 to (B, 3, H, W) float32, (x / 255 - mean) / std, and (B,)
        int64."""
        images, labels = self._move(images), self._move(labels)
        if self.device.type != "cpu":
            return self.normalise(images), labels
        with one_thread():
            return self.normalise(images), labels

    def normalise(self, images: Tensor) -> Tensor:
        """Images that are on the device already, as above."""
        if self.channels_last:  # as rows of W * 3 numbers: three to a step would be slow
            rows, width = images.flatten(2).to(torch.float32), images.shape[2]
            rows.sub_(self._mean.repeat(width)).mul_(self._inverse_std.repeat(width))
            return rows.view(images.shape).permute(0, 3, 1, 2)
        floats = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return floats.sub_(self._mean.view(3, 1, 1)).mul_(self._inverse_std.view(3, 1, 1))

    def wait(self) -> None:
        """Return when the last copy has left the source memory: at once, where a step was enqueued since."""
        if self._copied is not None and not self._copied.query():
            self._copied.synchronize()

    def _move(self, batch: Tensor) -> Tensor:
        if self._stream is None:
            return batch.to(self.device)
        current = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._stream):
            moved = batch.to(self.device, non_blocking=True)
            self._copied = self._stream.record_event()
        current.wait_event(self._copied)
        moved.record_stream(current)
        return moved


def transferred(
    batches: Iterator[tuple[Tensor, Tensor]], transfer: Transfer, ahead: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Host batches (images uint8 (B, H, W, 3), labels (B,)) on the device, normalised.

    With `ahead` the copy of the next batch runs beside the step of the batch handed out.
    The memory of a host batch is used until the next one is asked for, and no longer.
    """
    waiting: tuple[Tensor, Tensor] | None = None
    failure: Exception | None = None
    while failure is None:
        try:
            batch = next(batches, None)
        except Exception as error:  # raised in its turn, after the batch before it
            batch, failure = None, error
        moved = None if batch is None else transfer(*batch)
        if ahead:
            moved, waiting = waiting, moved
        if moved is not None:
            yield moved
        transfer.wait()
        if batch is None:
            break
    if failure is not None:
        raise failure


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch uses this thread alone: the other cores belong to the decoders.

    Torch's threads would wait for more work at full speed for milliseconds, which takes a quarter of the
    images per second from two decoders on two cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def keep_freed_memory() -> None:
    """Let glibc keep large blocks that were freed, for the next batch.

    By default it hands them back to the kernel, and every batch of 224x224 images then waits for its
    memory to be mapped anew, which costs more than to normalise it.
    """
    if not sys.platform.startswith("linux") or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    m_trim_threshold, m_mmap_threshold, largest = -1, -3, 2**31 - 1
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    if mallopt(m_mmap_threshold, largest) and mallopt(m_trim_threshold, largest):
        tell_choice(logger, "freed memory", "kept for reuse (glibc)", "large fresh blocks are slow to map")
