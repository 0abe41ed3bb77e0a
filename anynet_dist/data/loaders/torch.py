"""The loader without FFCV: torch's DataLoader around image folders, arrays in memory and .beton files.

Same order, same augmentation and same cuts as the FFCV loader; images are resized by torchvision (bilinear
with antialiasing) where FFCV's library averages areas, unless areas are asked for.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms.v2 import functional as transforms

from anynet_dist.data.decoding import Pixels
from anynet_dist.data.loaders.base import LoaderRequest, RequestedLoader
from anynet_dist.data.loaders.shared_memory import check_start, hand_over, tell_of_pipes
from anynet_dist.data.loaders.transfer import transferred
from anynet_dist.data.order import Indices, SampleKeys
from anynet_dist.data.samples import Opened, Samples
from anynet_dist.data.transforms.apply import cut_hole, shift_and_flip
from anynet_dist.data.transforms.params import HEIGHT, TOP, WIDTH, Resize, SampleParams, SampleTransform
from anynet_dist.data.transforms.resize import resize_boxes
from anynet_dist.data.transforms.torchvision import torchvision_policy
from anynet_dist.data.workers import choose_workers, end_with_parent, process_context
from anynet_dist.system.errors import RunError, UserError
from anynet_dist.system.signals import children_ignore_stop_signals

logger = logging.getLogger(__name__)

_Batch = tuple[Tensor | Pixels, Tensor | Indices]

STALL_S = 120.0
"""Without a batch for so long, a loader is stuck."""
LOOK_S = 5
"""Between two looks at whether the workers live."""
BLOCK_BYTES = 2**23
"""Decoded pixels that a worker holds at a time, unless one image has more."""


class TorchLoader(RequestedLoader):
    """Batches of any samples: float32 (B, 3, R, R) and int64 labels (B,), on the device."""

    name = "torch"

    def __init__(self, request: LoaderRequest) -> None:
        """With 0 workers it reads in this process."""
        super().__init__(request)
        placement = request.placement
        self.workers = (
            0 if placement.workers == 0 else choose_workers(placement.workers, placement.local_world)
        )
        self._through_pipes = False
        self._tasks = _Tasks()
        self._loader: DataLoader[_Batch | UserError] = DataLoader(
            _Batches(request.data.samples, shared=self.workers > 0),
            batch_size=None,
            sampler=self._tasks,
            num_workers=self.workers,
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # else each epoch draws from torch's own random numbers, for nothing
            pin_memory=placement.device.type == "cuda",
            persistent_workers=self.workers > 0,
            multiprocessing_context=process_context(has_threads=True) if self.workers else None,
            worker_init_fn=_start_worker,
        )
        # Also when python ends: it would end them by SIGTERM, which they do not receive, and wait.
        weakref.finalize(self, _end_workers, self._loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.workers and self._loader._iterator is None:
            check_start(process_context(has_threads=True))
        epoch, first_batch = self._start
        self._tasks.waiting = [
            _Task(epoch, keys, self.transform) for keys in self.request.batches(epoch, first_batch)
        ]
        self._set_timeout(0)  # an epoch may take longer to start than a batch
        with children_ignore_stop_signals(), self._lost_workers_named():
            batches = iter(self._loader)
        self._set_timeout(LOOK_S)
        yield from transferred(self._host_batches(batches), self.transfer, self.request.placement.ahead)

    def _host_batches(self, batches: Iterator[Any]) -> Iterator[tuple[Tensor, Tensor]]:
        while (batch := self._next(batches)) is not None:
            if isinstance(batch, UserError):
                raise batch
            images, labels = batch
            yield self._as_tensor(images), torch.as_tensor(labels)

    def _as_tensor(self, images: Tensor | Pixels) -> Tensor:
        if isinstance(images, Tensor):
            return images
        if not self._through_pipes:
            self._through_pipes = True
            tell_of_pipes(images.nbytes)
        return torch.from_numpy(images)

    def _set_timeout(self, seconds: float) -> None:
        """Let torch wait no longer for its workers: it looks whether they live when the time is up."""
        if self._loader._iterator is not None and self.workers:
            self._loader._iterator._timeout = seconds

    @contextmanager
    def _lost_workers_named(self) -> Iterator[None]:
        """Say in words what comes of worker processes that are gone: errors of many kinds."""
        try:
            yield
        except (RuntimeError, OSError, EOFError):
            workers = getattr(self._loader._iterator, "_workers", [])
            # Its pipe breaks a moment before a process can be seen to be gone.
            wait([worker.sentinel for worker in workers], timeout=2 if workers else 0)
            gone = [str(worker.pid) for worker in workers if not worker.is_alive()]
            if not gone:
                raise
            raise RunError(
                f"a worker process of the loader ({', '.join(gone)}) ended unexpectedly; one that was killed"
                " has most likely met a limit of memory: lower data.workers, or take smaller images"
            ) from None

    def _next(self, batches: Iterator[Any]) -> Any:
        """The next batch, None at the end. Raises RunError where a worker is gone, or all do nothing."""
        started = time.monotonic()
        while True:
            try:
                with self._lost_workers_named():
                    return next(batches, None)
            except RuntimeError as error:
                if "DataLoader timed out" not in str(error):
                    raise
                if time.monotonic() - started > STALL_S:
                    raise RunError(
                        f"the loader's worker processes made no batch in {STALL_S:.0f} s; is the disk stuck?"
                    ) from None

    def close(self) -> None:
        """End the worker processes."""
        _end_workers(self._loader)


@dataclass(frozen=True)
class _Task:
    """A batch to be made."""

    epoch: int
    keys: SampleKeys
    transform: SampleTransform


class _Tasks(Sampler[_Task]):
    """The batches of an epoch, asked for in the main process: so workers, which live on, need not know the
    epoch and its resolution."""

    def __init__(self) -> None:
        self.waiting: list[_Task] = []

    def __len__(self) -> int:
        return len(self.waiting)

    def __iter__(self) -> Iterator[_Task]:
        return iter(self.waiting)


class _Batches(Dataset[_Batch | UserError]):
    """Whole batches, made in a worker: (B, R, R, 3) uint8 and (B,) int64, or why that cannot be.

    `shared` puts the images into shared memory, as far as there is room.

    DataLoader would add its worker's traceback to what is raised there.
    """

    def __init__(self, samples: Samples, shared: bool) -> None:
        self.samples, self.shared = samples, shared

    def __getitem__(self, task: _Task) -> _Batch | UserError:
        try:
            return self._make(task)
        except UserError as error:
            return error

    def _make(self, task: _Task) -> _Batch:
        images, labels = make_batch(self.samples, task), self.samples.labels[task.keys.indices]
        if self.shared:
            return hand_over(images), hand_over(labels)
        return torch.from_numpy(images), torch.from_numpy(labels)


def make_batch(samples: Samples, task: _Task) -> Pixels:
    """The images of a batch, shape (B, R, R, 3); raises UserError where one cannot be read or used."""
    transform, size = task.transform, task.transform.resolution
    out = np.empty((len(task.keys), size, size, 3), np.uint8)
    fill, policy = np.array(transform.fill, np.uint8), torchvision_policy(transform)
    indices, first = task.keys.indices.tolist(), 0
    while first < len(indices):
        images = _open_block(samples, indices[first:], transform)
        keys = task.keys.values[first : first + len(images)]
        heights, widths = np.array([image.shape for image in images]).T
        params = transform.params(task.epoch, keys, heights, widths)
        for target, opened, row, key in zip(out[first:], images, params, keys, strict=False):
            image = opened.rows(int(row[TOP] + row[HEIGHT]))
            shift_and_flip(_cut(image, row, size, transform.resize), row, fill, target)
            if policy is not None:
                planes = torch.from_numpy(target).permute(2, 0, 1)
                target[:] = policy(planes, task.epoch, int(key)).permute(1, 2, 0).numpy()
            cut_hole(row, fill, target)
        first += len(images)
    return out


def _open_block(samples: Samples, indices: list[int], transform: SampleTransform) -> list[Opened]:
    """The first images of `indices`, as many as BLOCK_BYTES hold and at least one: their parameters are drawn
    together, then each is decoded as far as its box needs."""
    images, pixels = [], 0
    for index in indices:
        image = samples.opened(index)
        height, width = image.shape
        if transform.needs_square and height != width:
            raise UserError(
                f"{samples.name(index)}: is {width}x{height} pixels, but images are used whole, "
                "so they must be square; use a random resized crop for training, a centre crop for evaluation"
            )
        images.append(image)
        pixels += height * width
        if 3 * pixels > BLOCK_BYTES:
            break
    return images


def _cut(image: Pixels, row: SampleParams, size: int, method: Resize) -> Pixels:
    """The row's box of `image`, resized to (size, size, 3) unless it has that size already."""
    top, left, height, width = row[TOP : WIDTH + 1].tolist()
    box = image[top : top + height, left : left + width]
    if (height, width) == (size, size):
        return box
    pixels = torch.from_numpy(np.array(box))  # a copy, for a view of a file cannot be written to
    if method == "area":
        whole = torch.tensor([[0, 0, height, width]])
        return resize_boxes(pixels[None], whole, size, method)[0].numpy()
    resized = transforms.resize(pixels.permute(2, 0, 1), [size, size], antialias=True)
    return resized.permute(1, 2, 0).numpy()


def _end_workers(loader: DataLoader[Any]) -> None:
    iterator: Any = loader._iterator
    loader._iterator = None
    if iterator is None:
        return
    workers = iterator._workers if loader.num_workers else []
    # Torch waits 5 s for each that hangs, and python waits for ever when it ends.
    for worker in workers:
        if not _moves(worker.pid):
            worker.kill()
    iterator._shutdown_workers()
    for worker in workers:
        if worker.is_alive():
            worker.kill()


def _moves(pid: int) -> bool:
    """Whether a process runs: no signal has stopped it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return True


def _start_worker(number: int) -> None:
    end_with_parent()


def _as_it_is(batch: Any) -> Any:
    return batch
