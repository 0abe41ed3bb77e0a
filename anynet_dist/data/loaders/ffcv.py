"""FFCV's loader made safe, exact and reproducible.

FFCV reads and decodes samples into a ring of buffers; around it, here:
- the order of samples is handed in, not FFCV's; what happens to a sample is computed in `augment`, for all
loaders;
- batches leave as fresh float tensors on the device, so nothing handed out ever changes;
- a failure in FFCV's thread, its death or a stall is raised in the caller's; leaving early ends the thread.
Needs FFCV: import this module only where it is installed.
"""

from __future__ import annotations

import atexit
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from queue import Empty, Full
from typing import Any
from weakref import WeakSet

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anynet_dist.data.beton.file import BetonFile
from anynet_dist.data.beton.format import JPEG, BetonError, BetonTable
from anynet_dist.data.beton.jpeg_header import jpeg_size
from anynet_dist.data.loaders import ffcv_kernel
from anynet_dist.data.loaders.ffcv_memory import no_memory_manager
from anynet_dist.data.loaders.ffcv_parts import (
    AllocationQuery,
    Compiler,
    EpochIterator,
    Loader,
    SimpleRGBImageDecoder,
    State,
    ToTensor,
    kept_threads,
)
from anynet_dist.data.loaders.transfer import Transfer
from anynet_dist.data.order import Indices, Plan, sample_keys
from anynet_dist.data.transforms import params as augment
from anynet_dist.data.workers import choose_workers
from anynet_dist.system.errors import RunError, UserError

logger = logging.getLogger(__name__)


class FFCVLoader:
    """Batches of a .beton file: float32 (B, 3, R, R) and int64 labels (B,), on the device."""

    def __init__(
        self,
        table: BetonTable,
        plan: Plan,
        transform: augment.SampleTransform,
        transfer: Transfer,
        *,
        indices: Indices | None = None,
        workers: int | None = None,
        local_world: int = 1,
        batches_ahead: int = 2,
        stall_seconds: float = 120,
        max_resolution: int | None = None,
    ) -> None:
        """`indices` are the samples that `plan`'s positions mean (default: all); `table` was checked when
        read. Buffers are made for `max_resolution`, the largest that `set_resolution` is going to ask for.
        A batch that takes a tenth of `stall_seconds` is told, one that takes all of them ends the epoch with
        RunError."""
        if batches_ahead < 1:
            raise UserError(f"batches_ahead must be at least 1, not {batches_ahead}")
        self.table, self.plan, self.transform, self.transfer = table, plan, transform, transfer
        self.indices = indices
        self.stall_seconds = stall_seconds
        self.workers = choose_workers(workers, local_world, numba.config.NUMBA_NUM_THREADS)
        self._start = (0, 0)
        self._running: _Epoch | None = None
        largest = max(transform.resolution, max_resolution or 0)
        self._loader = _SampleLoader(
            table,
            replace(transform, resolution=largest),
            min(plan.batch_size, plan.num_samples),
            self.workers,
            batches_ahead,
        )

    def __len__(self) -> int:
        return len(self.plan)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """The next iteration is that of `epoch`, from batch `first_batch` on."""
        self._start = (epoch, first_batch)

    def set_resolution(self, resolution: int) -> None:
        """From the next iteration on, images are `resolution` pixels wide and high."""
        self.transform = replace(self.transform, resolution=resolution)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.close()
        epoch, first_batch = self._start
        batches = sample_keys(self.plan, self.indices, len(self.table), epoch, first_batch)
        if not batches:
            return
        self._loader.use_resolution(self.transform.resolution)
        running = self._running = _Epoch(
            self._loader, batches, epoch, self.table, self.transform, self.stall_seconds
        )
        try:
            for images, keys in running:
                yield self.transfer(images, torch.from_numpy(self.table.labels[keys % len(self.table)]))
                self.transfer.wait()
        finally:
            running.close()

    def close(self) -> None:
        """End the thread of an unfinished epoch."""
        if self._running is not None:
            self._running.close()
            self._running = None


@contextmanager
def _nothing_to_compile() -> Iterator[None]:
    """FFCV compiles its pipelines anew in each process, for seconds; ours is compiled already, and kept on
    disk.

    FFCV's Compiler also sets torch's number of threads to that of its own workers; here it is put back.
    """
    Compiler.set_enabled(False)
    try:
        with kept_threads():
            yield
    finally:
        Compiler.set_enabled(True)


class _SampleLoader(Loader):
    """FFCV's Loader with one pipeline: decode, cut, resize, shift, flip and erase in one compiled pass."""

    def __init__(
        self, table: BetonTable, transform: augment.SampleTransform, batch_size: int, workers: int, ahead: int
    ) -> None:
        self.file = BetonFile(table)
        with _nothing_to_compile(), no_memory_manager():
            super().__init__(
                str(table.path),
                batch_size,
                num_workers=workers,
                os_cache=True,
                seed=0,
                pipelines={
                    **dict.fromkeys(table.fields),
                    table.image_field: [_DecodeSample(self.file, transform), ToTensor()],
                },
                drop_last=False,
                batches_ahead=ahead,
            )
        self.file.check()  # FFCV read it anew
        if numba.threading_layer() == "workqueue":
            raise UserError(
                "numba has only its 'workqueue' threads, which FFCV cannot use safely; install tbb"
            )
        (self.decoder_node,) = (node.id for node in self.graph.root_nodes)
        self._allocate = self.graph.allocate_memory
        self._make_buffers(transform.resolution)

    def _make_buffers(self, resolution: int) -> None:
        """Buffers that are kept from epoch to epoch: nothing handed out refers to them."""
        slots, self.largest = self.batches_ahead + 2, resolution
        self.pipeline_specs[self.file.table.image_field].decoder.resolution = resolution
        self._buffers = self._allocate(self.batch_size, slots)
        megabytes = slots * self.batch_size * 3 * resolution**2 / 2**20
        logger.info(
            "FFCV holds %.0f MiB of image buffers (%d batches of %d); %d threads decode with up to %.0f MiB",
            megabytes,
            slots,
            self.batch_size,
            self.num_workers,
            self.num_workers * _scratch_bytes(self.file.table) / 2**20,
        )

    def use_resolution(self, resolution: int) -> None:
        """Hand out buffers for images of this side, cut from those there are if these are large enough."""
        if resolution > self.largest:
            self._make_buffers(resolution)
        images, recipe = self._buffers["operation"][self.decoder_node]
        shape = (self.batches_ahead + 2, self.batch_size, resolution, resolution, 3)
        views = {"operation": dict(self._buffers["operation"]), "shared": self._buffers["shared"]}
        views["operation"][self.decoder_node] = (
            images.reshape(-1)[: math.prod(shape)].reshape(shape),
            recipe,
        )
        self.graph.allocate_memory = lambda *_: views

    def recipe_buffer(self, memory: dict[str, dict[int, Any]], slot: int) -> augment.Recipe:
        """Where the compiled code looks for what to do with the samples of a batch slot."""
        buffer: augment.Recipe = memory["operation"][self.decoder_node][1][slot]
        return buffer


def _scratch_bytes(table: BetonTable) -> int:
    """What decoding takes at most: the pixels of the largest image, and its bytes where it is a JPEG."""
    jpegs = np.where(table.modes == JPEG, table.sizes, 0)
    return int((3 * table.heights * table.widths + jpegs).max())


class _DecodeSample(SimpleRGBImageDecoder):  # FFCV takes for a decoder only what derives from its own
    """An FFCV decoder that does with each sample what its recipe says."""

    def __init__(self, file: BetonFile, transform: augment.SampleTransform) -> None:
        super().__init__()
        self.file, self.transform, self.resolution = file, transform, transform.resolution

    def declare_state_and_memory(
        self, previous_state: State
    ) -> tuple[State, tuple[AllocationQuery, AllocationQuery]]:
        shape, pixel = (self.resolution, self.resolution, 3), np.dtype("u1")
        state = replace(previous_state, jit_mode=True, shape=shape, dtype=pixel)
        return state, (AllocationQuery(shape, pixel), AllocationQuery((augment.NUM_COLUMNS,), np.dtype("i8")))

    def generate_code(self) -> Callable[..., NDArray[np.uint8]]:
        fill, file, table = np.array(self.transform.fill, np.uint8), self.file, self.file.table
        columns = (table.starts, table.sizes, table.heights, table.widths, table.modes)

        def decode(batch_indices, memory, metadata, storage_state):  # type: ignore[no-untyped-def]
            images, recipe = memory
            ffcv_kernel.decode_batch(batch_indices, file.descriptor, *columns, recipe, fill, images)
            return images

        return decode


class _Epoch(EpochIterator):
    """FFCV's thread over an epoch; yields (images (B, R, R, 3) uint8 that live until the next one, sample
    indices)."""

    def __init__(
        self,
        loader: _SampleLoader,
        batches: list[Indices],
        epoch: int,
        table: BetonTable,
        transform: augment.SampleTransform,
        stall_seconds: float,
    ) -> None:
        self.epoch, self.table, self.transform, self.stall_seconds = epoch, table, transform, stall_seconds
        self.batches, self.taken, self.stalled = batches, 0, False
        _unfinished.add(self)
        super().__init__(loader, ())  # starts the thread

    def run(self) -> None:
        """Fill the queue with (images, indices), then None, or with the exception that ended it."""
        number = 0
        try:
            numba.set_num_threads(self.loader.num_workers)
            slots = self.loader.batches_ahead + 2
            for number, indices in enumerate(self.batches):
                if not self._offer(self._decode(number, indices, number % slots)):
                    return
            self._offer(None)
        except BaseException as error:
            error.add_note(f"in FFCV's thread, while making {self._describe(number)}")
            self._offer(error)

    def _decode(self, number: int, indices: Indices, slot: int) -> tuple[Tensor, Indices]:
        recipe = self.loader.recipe_buffer(self.memory_allocations, slot)[: len(indices)]
        samples = indices % len(self.table)
        recipe[:] = self.transform.recipe(
            self.epoch, indices, self.table.heights[samples], self.table.widths[samples]
        )
        (images,) = self.run_pipeline(number, indices, slot, None)
        self.loader.file.check()  # after the last read: nothing of a changed file is handed out
        failed = recipe[:, augment.FAILED]
        if failed.any():
            first = failed.argmax()
            raise self._failure(int(samples[first]), failed[first])
        return images, indices

    def _failure(self, sample: int, reason: int) -> BetonError:
        file = self.loader.file
        if reason == ffcv_kernel.UNREADABLE:
            return file.unreadable(sample)
        if reason == ffcv_kernel.MISFIT:
            return file.misfit(sample, jpeg_size(file.read(sample)))
        return BetonError(f"{self.table.path}: sample {sample}: its JPEG is damaged")

    def _offer(self, item: object) -> bool:
        """Put into the queue; False when the epoch was left meanwhile."""
        while not self.terminate_event.is_set():
            try:
                self.output_queue.put(item, timeout=0.2)
                return True
            except Full:
                continue
        return False

    def __next__(self) -> tuple[Tensor, Indices]:
        item = self._take()
        if item is None:
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        return item

    def _take(self) -> Any:
        """The next item; raises RunError when the thread died or made nothing for `stall_seconds`."""
        started, told = time.monotonic(), False
        while (waited := time.monotonic() - started) < self.stall_seconds:
            alive = self.is_alive()  # asked before looking: a thread may put its last item and end
            try:
                item = self.output_queue.get(timeout=0.5)
            except Empty:
                if not alive:
                    where = self._describe(self.taken)
                    raise RunError(f"FFCV's thread died without saying why, while making {where}") from None
                if waited > self.stall_seconds / 10 and not told:
                    told = True
                    logger.warning("waiting for %s for %.0f s", self._describe(self.taken), waited)
            else:
                self.taken += 1
                return item
        self.stalled = True
        raise RunError(
            f"FFCV made nothing in {self.stall_seconds:.0f} s of {self._describe(self.taken)}; "
            "is the disk stuck?"
        )

    def _describe(self, number: int) -> str:
        """Where and what a batch is."""
        samples = self.batches[number] % len(self.table)
        some = ", ".join(map(str, samples[:8])) + (", ..." if len(samples) > 8 else "")
        return f"batch {number} of epoch {self.epoch} (samples {some} of {self.table.path})"

    def close(self) -> None:
        """End the thread and wait for it, for a moment only if it is stuck."""
        self.terminate_event.set()
        if self.is_alive():
            self.join(timeout=2 if self.stalled else 60)
        if self.is_alive():
            logger.warning("%s: FFCV's thread does not end; is the disk stuck?", self.table.path)
        super().close()


_unfinished: WeakSet[_Epoch] = WeakSet()


@atexit.register
def _end_threads() -> None:
    """A thread in compiled code while the interpreter ends aborts the process, so end those left running."""
    for epoch in list(_unfinished):
        epoch.close()
