"""The whole data set in the memory of the accelerator (or the CPU), whole batches augmented there: for small
images of one size.

Same order and same recipes as the other loaders, and where nothing is resized the very same pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import psutil
import torch
from torch import Tensor

from anynet_dist.data.loaders.transfer import Transfer
from anynet_dist.data.order import Indices, Plan, sample_keys
from anynet_dist.data.samples import Samples
from anynet_dist.data.transforms import params as augment
from anynet_dist.data.transforms.resize import resize_boxes
from anynet_dist.data.transforms.torchvision import Policy, torchvision_policy
from anynet_dist.data.workers import choose_workers
from anynet_dist.system.errors import UserError

logger = logging.getLogger(__name__)

MEMORY_SHARE = 0.5
"""How much of the free memory the images may take: the network needs some too."""
_RECIPES_AT_ONCE = 2**14


class DeviceLoader:
    """Batches of samples that all lie on the device: float32 (B, 3, R, R) and int64 labels (B,)."""

    def __init__(
        self,
        samples: Samples,
        shape: tuple[int, int],
        plan: Plan,
        transform: augment.SampleTransform,
        transfer: Transfer,
        *,
        indices: Indices | None = None,
        workers: int | None = None,
        local_world: int = 1,
    ) -> None:
        """Load the samples `indices` (default: all), each of `shape` (height, width), with `workers` threads.

        Raises UserError when they do not fit into memory or one has another shape.
        """
        self.plan, self.transform, self.transfer, self.indices = plan, transform, transfer, indices
        self.num_stored = len(samples.labels)
        wanted = np.arange(self.num_stored) if indices is None else np.unique(indices)
        _check_memory(len(wanted) * 3 * shape[0] * shape[1], transfer.device, local_world)
        threads = choose_workers(workers or None, local_world)
        self._images = _load(samples, wanted, shape, threads).to(transfer.device)
        self._labels = torch.from_numpy(samples.labels[wanted]).to(transfer.device)
        # Where a sample lies in the two: samples that are not wanted lie nowhere.
        self._places = np.full(self.num_stored, -1)
        self._places[wanted] = np.arange(len(wanted))
        self._start = (0, 0)
        self._warn_of_slow_policy()

    def __len__(self) -> int:
        return len(self.plan)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """The next iteration is that of `epoch`, from batch `first_batch` on."""
        self._start = (epoch, first_batch)

    def set_resolution(self, resolution: int) -> None:
        """From the next iteration on, images are `resolution` pixels wide and high."""
        self.transform = replace(self.transform, resolution=resolution)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, first_batch = self._start
        batches = sample_keys(self.plan, self.indices, self.num_stored, epoch, first_batch)
        augmenter = _Augmenter(self.transform, epoch, self.transfer.device)
        block = max(1, _RECIPES_AT_ONCE // self.plan.batch_size)  # few copies to the device, little memory
        for first in range(0, len(batches), block):
            sizes = [len(batch) for batch in batches[first : first + block]]
            some = np.concatenate(batches[first : first + block])
            places = torch.from_numpy(self._places[some % self.num_stored]).to(self.transfer.device)
            recipe = self._recipe(epoch, some)
            rows = torch.from_numpy(recipe).to(self.transfer.device)
            for end, size in zip(np.cumsum(sizes), sizes, strict=True):
                part = slice(end - size, end)
                images = augmenter(
                    self._images.index_select(0, places[part]), rows[part], recipe[part], some[part]
                )
                yield self.transfer.normalise(images), self._labels.index_select(0, places[part])

    def close(self) -> None:
        """There is nothing to end; the images stay."""

    def _recipe(self, epoch: int, keys: Indices) -> augment.Recipe:
        height, width = self._images.shape[1:3]
        return self.transform.recipe(epoch, keys, np.full(len(keys), height), np.full(len(keys), width))

    def _warn_of_slow_policy(self) -> None:
        names = self.transform.augment.needs_torchvision if self.transform.augment else ()
        if names:
            logger.warning(
                "the device loader does %s one image at a time, which is slow; the torch loader's workers "
                "share that work",
                ", ".join(names),
            )


def _check_memory(needed: int, device: torch.device, local_world: int) -> None:
    """Refuse `needed` bytes a rank that are more than a good share of what is free."""
    if device.type == "cuda":
        free, where = torch.cuda.mem_get_info(device)[0], f"of {device}"
    else:
        free = psutil.virtual_memory().available // local_world
        where = f"of this machine for each of {local_world} ranks"
    if needed > MEMORY_SHARE * free:
        raise UserError(
            f"the device loader needs {needed / 2**30:.2f} GiB for the images, but may take only "
            f"{MEMORY_SHARE * free / 2**30:.2f} GiB, {MEMORY_SHARE:.0%} of the free memory {where}; "
            "take the ffcv or torch loader"
        )
    logger.info("the device loader keeps %.2f GiB of images in the memory %s", needed / 2**30, where)


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
    """Carries out recipes on whole batches; what `augment.place` does, and a test holds the two together."""

    def __init__(self, transform: augment.SampleTransform, epoch: int, device: torch.device) -> None:
        self.transform, self.epoch = transform, epoch
        self.policy = torchvision_policy(transform)
        self.fill = torch.tensor(transform.fill, dtype=torch.uint8, device=device)
        self.pixels = torch.arange(transform.resolution, device=device)
        self._padded: Tensor | None = None

    def __call__(self, images: Tensor, rows: Tensor, recipe: augment.Recipe, keys: Indices) -> Tensor:
        """(B, H, W, 3) to (B, R, R, 3), both uint8; `rows` is `recipe` (B, NUM_COLUMNS) on the device."""
        side = self.transform.resolution
        boxes = recipe[:, augment.TOP : augment.WIDTH + 1]
        if (boxes != (0, 0, *images.shape[1:3])).any() or images.shape[1:3] != (side, side):
            images = resize_boxes(
                images, rows[:, augment.TOP : augment.WIDTH + 1], side, self.transform.resize
            )
        changes = self.transform.augment
        if changes is None:
            return images
        if changes.translate or changes.flip:
            images = self._shift_and_flip(images, rows, changes)
        if self.policy is not None:
            images = self._apply_policy(self.policy, images, keys)
        return self._cut_holes(images, rows) if changes.cutout else images

    def _shift_and_flip(self, images: Tensor, rows: Tensor, changes: augment.Augmentation) -> Tensor:
        """Each image as seen through a window that is moved over a padded one, or over its mirror image."""
        most, (batch, side) = changes.translate, images.shape[:2]
        padded = self._pad(images, changes)
        mirrored, image, row, pixel, _ = padded.stride()
        windows = padded.as_strided(
            (len(padded), batch, 2 * most + 1, 2 * most + 1, side, side * 3),
            (mirrored, image, row, pixel, row, 1),
        )
        down, right, flip = rows[:, augment.SHIFT_Y : augment.FLIP + 1].T
        right = right * (1 - 2 * flip)  # in a mirror, left is right
        seen = windows[flip, torch.arange(batch, device=images.device), most + down, most + right]
        return seen.view(batch, side, side, 3)

    def _pad(self, images: Tensor, changes: augment.Augmentation) -> Tensor:
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
        top, left, bottom, right = rows[:, augment.HOLE_TOP : augment.HOLE_RIGHT + 1].T[..., None]
        high = (self.pixels >= top) & (self.pixels < bottom)
        wide = (self.pixels >= left) & (self.pixels < right)
        return torch.where((high[:, :, None] & wide[:, None])[..., None], self.fill, images)
