"""The whole data set in the memory of the accelerator (or the CPU), whole batches augmented there: for small
images of one size.

Same order and same sample parameters as the other loaders, and where nothing is resized the very same pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import torch
from torch import Tensor

from anynet_dist.data.dataset import one_shape
from anynet_dist.data.loaders.base import LoaderRequest, RequestedLoader
from anynet_dist.data.order import Indices, SampleKeys
from anynet_dist.data.samples import Samples
from anynet_dist.data.transforms.augmentation import Augmentation
from anynet_dist.data.transforms.params import (
    FLIP,
    HOLE_RIGHT,
    HOLE_TOP,
    SHIFT_Y,
    TOP,
    WIDTH,
    SampleParams,
    SampleTransform,
)
from anynet_dist.data.transforms.resize import resize_boxes
from anynet_dist.data.transforms.torchvision import Policy, torchvision_policy
from anynet_dist.data.workers import choose_workers
from anynet_dist.system.errors import UserError

logger = logging.getLogger(__name__)

MEMORY_FRACTION = 0.5
"""Of the free memory, for the images: the network needs some too."""
_PARAMS_AT_ONCE = 2**14


class DeviceLoader(RequestedLoader):
    """Batches of samples that all lie on the device: float32 (B, 3, R, R) and int64 labels (B,)."""

    name = "device"

    def __init__(self, request: LoaderRequest) -> None:
        """Load the data set's samples with as many threads as it has workers.

        Raises UserError when they do not fit into memory or differ in size.
        """
        super().__init__(request)
        data, placement = request.data, request.placement
        shape = one_shape(data)
        wanted = np.arange(data.num_stored) if data.indices is None else np.unique(data.indices)
        _check_memory(len(wanted) * 3 * shape[0] * shape[1], placement.device, placement.local_world)
        threads = choose_workers(placement.workers or None, placement.local_world)
        self._images = _load(data.samples, wanted, shape, threads).to(placement.device)
        self._labels = torch.from_numpy(data.samples.labels[wanted]).to(placement.device)
        # Where a stored sample lies in the two; those outside of the subset lie nowhere.
        self._places = np.full(data.num_stored, -1)
        self._places[wanted] = np.arange(len(wanted))
        self._warn_of_slow_policy()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, first_batch = self._start
        batches = self.request.batches(epoch, first_batch)
        augmenter = _Augmenter(self.transform, epoch, self.transfer.device)
        # few copies to the device, little memory
        block = max(1, _PARAMS_AT_ONCE // self.request.plan.batch_size)
        for first in range(0, len(batches), block):
            part = batches[first : first + block]
            sizes = [len(batch) for batch in part]
            keys = SampleKeys(np.concatenate([batch.values for batch in part]), part[0].num_stored)
            places = torch.from_numpy(self._places[keys.indices]).to(self.transfer.device)
            params = self._params(epoch, keys.values)
            rows = torch.from_numpy(params).to(self.transfer.device)
            for end, size in zip(np.cumsum(sizes), sizes, strict=True):
                batch = slice(end - size, end)
                images = self._images.index_select(0, places[batch])
                images = augmenter(images, rows[batch], params[batch], keys.values[batch])
                yield self.transfer.normalise(images), self._labels.index_select(0, places[batch])

    def _params(self, epoch: int, keys: Indices) -> SampleParams:
        height, width = self._images.shape[1:3]
        return self.transform.params(epoch, keys, np.full(len(keys), height), np.full(len(keys), width))

    def _warn_of_slow_policy(self) -> None:
        names = self.transform.augment.needs_torchvision if self.transform.augment else ()
        if names:
            logger.warning(
                "the device loader does %s one image at a time, which is slow; the torch loader's workers "
                "share that work",
                ", ".join(names),
            )


def _check_memory(needed: int, device: torch.device, local_world: int) -> None:
    """Refuse `needed` bytes a rank that are more than a good part of what is free."""
    if device.type == "cuda":
        free, where = torch.cuda.mem_get_info(device)[0], f"of {device}"
    else:
        free = psutil.virtual_memory().available // local_world
        where = f"of this machine for each of {local_world} ranks"
    if needed > MEMORY_FRACTION * free:
        raise UserError(
            f"the device loader needs {needed / 2**30:.2f} GiB for the images, but may take only "
            f"{MEMORY_FRACTION * free / 2**30:.2f} GiB, {MEMORY_FRACTION:.0%} of the free memory {where}; "
            "take the ffcv or torch loader"
        )
    logger.debug("the device loader keeps %.2f GiB of images in the memory %s", needed / 2**30, where)


def _load(samples: Samples, wanted: Indices, shape: tuple[int, int], threads: int) -> Tensor:
    """The images `wanted`, shape (N, H, W, 3), uint8."""
    images = np.empty((len(wanted), *shape, 3), np.uint8)

    def load(first: int) -> None:
        for place, index in enumerate(wanted[first : first + 256].tolist(), start=first):
            image = samples.image(index)
            height, width = image.shape[:2]
            if (height, width) != shape:
                raise UserError(
                    f"{samples.name(index)}: is {width}x{height} pixels, others are {shape[1]}x{shape[0]}; "
                    "the device loader holds images of one size: take the ffcv or torch loader"
                )
            images[place] = image

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(load, range(0, len(wanted), 256)))
    return torch.from_numpy(images)


class _Augmenter:
    """Applies sample parameters to whole batches as `apply.place` does to one image, which a test holds."""

    def __init__(self, transform: SampleTransform, epoch: int, device: torch.device) -> None:
        self.transform, self.epoch = transform, epoch
        self.policy = torchvision_policy(transform)
        self.fill = torch.tensor(transform.fill, dtype=torch.uint8, device=device)
        self.pixels = torch.arange(transform.resolution, device=device)
        self._padded: Tensor | None = None

    def __call__(self, images: Tensor, rows: Tensor, params: SampleParams, keys: Indices) -> Tensor:
        """(B, H, W, 3) to (B, R, R, 3), both uint8; `rows` is `params` (B, NUM_COLUMNS) on the device."""
        side = self.transform.resolution
        boxes = params[:, TOP : WIDTH + 1]
        if (boxes != (0, 0, *images.shape[1:3])).any() or images.shape[1:3] != (side, side):
            images = resize_boxes(images, rows[:, TOP : WIDTH + 1], side, self.transform.resize)
        changes = self.transform.augment
        if changes is None:
            return images
        if changes.translate or changes.flip:
            images = self._shift_and_flip(images, rows, changes)
        if self.policy is not None:
            images = self._apply_policy(self.policy, images, keys)
        return self._cut_holes(images, rows) if changes.cutout else images

    def _shift_and_flip(self, images: Tensor, rows: Tensor, changes: Augmentation) -> Tensor:
        """Each image as seen through a window that is moved over a padded one, or over its mirror image."""
        most, (batch, side) = changes.translate, images.shape[:2]
        padded = self._pad(images, changes)
        mirrored, image, row, pixel, _ = padded.stride()
        windows = padded.as_strided(
            (len(padded), batch, 2 * most + 1, 2 * most + 1, side, side * 3),
            (mirrored, image, row, pixel, row, 1),
        )
        down, right, flip = rows[:, SHIFT_Y : FLIP + 1].T
        right = right * (1 - 2 * flip)  # in a mirror, left is right
        seen = windows[flip, torch.arange(batch, device=images.device), most + down, most + right]
        return seen.view(batch, side, side, 3)

    def _pad(self, images: Tensor, changes: Augmentation) -> Tensor:
        """(B, R, R, 3) to (1 or 2, B, R + 2 * translate, R + 2 * translate, 3), the mirror images second."""
        sources = (images, images.flip(2)) if changes.flip else (images,)
        most, (batch, side) = changes.translate, images.shape[:2]
        shape = (len(sources), batch, side + 2 * most, side + 2 * most, 3)
        if self._padded is None or self._padded.shape != shape:  # kept: its edges stay what they are
            self._padded = self.fill.repeat(*shape[:-1], 1)
        places = torch.arange(-most, side + most, device=images.device)
        places = side - 1 - (side - 1 - places.abs()).abs()
        for target, source in zip(self._padded, sources, strict=True):
            if changes.translate_padding == "reflect":
                target.copy_(source.index_select(1, places).index_select(2, places))
            else:
                target[:, most : most + side, most : most + side] = source
        return self._padded

    def _apply_policy(self, policy: Policy, images: Tensor, keys: Indices) -> Tensor:
        planes = images.permute(0, 3, 1, 2)
        changed = [policy(image, self.epoch, int(key)) for image, key in zip(planes, keys, strict=True)]
        return torch.stack(changed).permute(0, 2, 3, 1)

    def _cut_holes(self, images: Tensor, rows: Tensor) -> Tensor:
        top, left, bottom, right = rows[:, HOLE_TOP : HOLE_RIGHT + 1].T[..., None]
        high = (self.pixels >= top) & (self.pixels < bottom)
        wide = (self.pixels >= left) & (self.pixels < right)
        return torch.where((high[:, :, None] & wide[:, None])[..., None], self.fill, images)
