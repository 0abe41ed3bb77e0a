"""The loader of .beton files: a thread decodes with FFCV's compiled library into a ring of buffers.

- The order of samples and their parameters are those of all loaders.
- Batches leave as fresh float tensors on the device, so nothing handed out ever changes.
- A failure in the thread, its death or a stall is raised in the caller's; leaving early ends the thread.

Needs FFCV: import this module only where it is installed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anynet_dist.data.beton.file import BetonFile
from anynet_dist.data.beton.format import JPEG, BetonError, BetonTable
from anynet_dist.data.beton.jpeg_header import jpeg_size
from anynet_dist.data.loaders import ffcv_kernel
from anynet_dist.data.loaders.base import LoaderRequest, RequestedLoader
from anynet_dist.data.loaders.ring import Ring
from anynet_dist.data.loaders.thread import BatchThread
from anynet_dist.data.loaders.transfer import transferred
from anynet_dist.data.order import SampleKeys
from anynet_dist.data.transforms.params import FAILED, SampleTransform
from anynet_dist.data.workers import choose_workers
from anynet_dist.system.errors import UserError

logger = logging.getLogger(__name__)


class FFCVLoader(RequestedLoader):
    """Batches of a .beton file: float32 (B, 3, R, R) and int64 labels (B,), on the device."""

    name = "ffcv"

    def __init__(self, request: LoaderRequest, *, batches_ahead: int = 2, stall_seconds: float = 120) -> None:
        """Buffers are made for the request's resolution. A batch that takes a tenth of `stall_seconds` is
        logged, one that takes all of them ends the epoch with RunError."""
        super().__init__(request)
        if batches_ahead < 1:
            raise UserError(f"batches_ahead must be at least 1, not {batches_ahead}")
        assert request.data.table is not None
        self.table, self.file = request.data.table, BetonFile(request.data.table)
        self.batches_ahead, self.stall_seconds = batches_ahead, stall_seconds
        placement = request.placement
        self.workers = choose_workers(
            placement.workers, placement.local_world, numba.config.NUMBA_NUM_THREADS
        )
        _check_threads()
        self.file.check()
        self._running: BatchThread | None = None
        self._ring = self._make_ring(self.transform.resolution)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.close()
        epoch, first_batch = self._start
        batches = self.request.batches(epoch, first_batch)
        if not batches:
            return
        if self.transform.resolution > self._ring.resolution:
            self._ring = self._make_ring(self.transform.resolution)
        decoder = _Decoder(self.file, self.transform, self._ring, epoch, batches, self.workers)
        running = self._running = BatchThread(decoder, self.batches_ahead, self.stall_seconds)
        try:
            yield from transferred(self._host_batches(running), self.transfer, self.request.placement.ahead)
        finally:
            running.close()

    def close(self) -> None:
        """End the thread of an unfinished epoch."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def _host_batches(self, running: BatchThread) -> Iterator[tuple[Tensor, Tensor]]:
        for images, keys in running:
            yield images, torch.from_numpy(self.table.labels[keys.indices])

    def _make_ring(self, resolution: int) -> Ring:
        plan = self.request.plan
        size, slots = min(plan.batch_size, plan.num_samples), self.batches_ahead + 2
        ring = Ring(slots, size, resolution, pinned=self.transfer.device.type == "cuda")
        logger.info(
            "FFCV holds %.0f MiB of image buffers (%d batches of %d); %d threads decode with up to %.0f MiB",
            ring.mebibytes,
            slots,
            size,
            self.workers,
            self.workers * _scratch_bytes(self.table) / 2**20,
        )
        return ring


class _Decoder:
    """Makes the batches of an epoch, in a thread of their own."""

    def __init__(
        self,
        file: BetonFile,
        transform: SampleTransform,
        ring: Ring,
        epoch: int,
        batches: list[SampleKeys],
        workers: int,
    ) -> None:
        self.file, self.transform, self.ring, self.epoch = file, transform, ring, epoch
        self.batches, self.workers = batches, workers
        table = file.table
        modes = table.modes if (table.modes == JPEG).any() else None  # without, less is compiled
        self._columns = (table.starts, table.sizes, table.heights, table.widths, modes)
        self._fill: NDArray[np.uint8] = np.array(transform.fill, np.uint8)

    def __len__(self) -> int:
        return len(self.batches)

    def start(self) -> None:
        """Called once in the thread: numba's number of threads belongs to the thread that sets it."""
        numba.set_num_threads(self.workers)

    def make(self, number: int) -> tuple[Tensor, SampleKeys]:
        """Batch `number`: images (B, R, R, 3) uint8 in the ring, and which samples they are.

        Raises BetonError where one cannot be decoded, or the file changed.
        """
        keys, table = self.batches[number], self.file.table
        images, pixels, params = self.ring.slot(number, len(keys), self.transform.resolution)
        indices = keys.indices
        params[:] = self.transform.params(
            self.epoch, keys.values, table.heights[indices], table.widths[indices]
        )
        ffcv_kernel.decode_batch(indices, self.file.descriptor, *self._columns, params, self._fill, pixels)
        self.file.check()  # after the last read: nothing of a changed file is handed out
        failed = params[:, FAILED]
        if failed.any():
            first = failed.argmax()
            raise self._failure(int(indices[first]), failed[first])
        return images, keys

    def describe(self, number: int) -> str:
        """Where and what a batch is."""
        samples = self.batches[number].indices
        some = ", ".join(map(str, samples[:8])) + (", ..." if len(samples) > 8 else "")
        return f"batch {number} of epoch {self.epoch} (samples {some} of {self.file.table.path})"

    def _failure(self, sample: int, reason: int) -> BetonError:
        if reason == ffcv_kernel.UNREADABLE:
            return self.file.unreadable(sample)
        if reason == ffcv_kernel.MISFIT:
            return self.file.misfit(sample, jpeg_size(self.file.read(sample)))
        return BetonError(f"{self.file.table.path}: sample {sample}: its JPEG is damaged")


def _scratch_bytes(table: BetonTable) -> int:
    """What decoding takes at most: the pixels of the largest image, and its bytes where it is a JPEG."""
    jpegs = np.where(table.modes == JPEG, table.sizes, 0)
    return int((3 * table.heights * table.widths + jpegs).max())


def _check_threads() -> None:
    """Raise UserError where numba's threads cannot be used by several threads at once."""
    with _kept_threads():  # asking starts them
        layer = numba.threading_layer()
    if layer == "workqueue":
        raise UserError("numba has only its 'workqueue' threads, which FFCV cannot use safely; install tbb")


@contextmanager
def _kept_threads() -> Iterator[None]:
    """Starting numba's threads leaves torch's and numba's numbers of threads as they are."""
    torch_threads, numba_threads = torch.get_num_threads(), numba.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        numba.set_num_threads(numba_threads)
