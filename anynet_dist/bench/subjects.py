"""The loaders that a benchmark compares: ours, FFCV without our wrapper, and what most people use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from anynet_dist.data.dataset import open_dataset
from anynet_dist.data.loaders.base import Loader, Placement
from anynet_dist.data.loaders.factory import train_loader
from anynet_dist.data.loaders.names import LoaderName
from anynet_dist.data.samples import ArraySamples
from anynet_dist.data.transforms.augmentation import Augmentation
from anynet_dist.data.transforms.normalisation import IMAGENET

BARE = "bare FFCV"
SMALL_SHIFT = 4


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured."""

    root: Path
    """One split (CLASS/IMAGE), or a folder with train/ in it; for small images that of CIFAR-10."""
    beton: Path | None = None
    """A .beton file of the same images; without one, raw, proportion (half raw, half jpg) and jpg are written
    to a temporary folder."""
    resolution: int = 224
    batch_size: int = 64
    repeats: int = 5
    workers: int | None = None
    bare: bool = False
    """Measure FFCV without our wrapper too."""
    small: bool = False
    """Small images: CIFAR-10's, shifted and flipped."""
    max_resolution: int = 500
    """Longer side of the images in .beton files written here."""


def our_loader(path: Path, name: LoaderName, setting: Setting, workers: int) -> Loader:
    """The loader `name` of ours, with what the setting asks for."""
    if setting.small:
        style = Augmentation(translate=SMALL_SHIFT, flip=True)
    else:
        style = Augmentation(random_resized_crop=True, flip=True)
    return train_loader(
        path,
        setting.batch_size,
        style,
        resolution=setting.resolution,
        normalisation=IMAGENET,
        placement=Placement(workers=workers),
        loader=name,
    )


def bare_loader(path: Path, setting: Setting, workers: int) -> Iterable[Any]:
    """FFCV without our wrapper."""
    from anynet_dist.bench.stock_ffcv import BareFFCV

    return BareFFCV(
        path,
        batch_size=setting.batch_size,
        workers=workers,
        mean=IMAGENET.mean,
        std=IMAGENET.std,
        resolution=None if setting.small else setting.resolution,
        shift=SMALL_SHIFT if setting.small else 0,
    )


def image_folder_loader(root: Path, setting: Setting, workers: int) -> Iterable[Any]:
    """What most people use: ImageFolder, Pillow, torchvision's transforms, DataLoader with worker
    processes."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [
        transforms.RandomResizedCrop(setting.resolution),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET.mean, IMAGENET.std),
    ]
    return DataLoader(
        ImageFolder(str(root), transforms.Compose(steps)),
        batch_size=setting.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
    )


class _PILImages(Dataset[Any]):
    """Images in memory, handed out as torchvision's CIFAR10 does: by Pillow, one at a time."""

    def __init__(self, samples: ArraySamples, transform: Callable[[Image.Image], Any]) -> None:
        self.samples, self.transform = samples, transform

    def __len__(self) -> int:
        return len(self.samples.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.samples.image(index))), int(self.samples.labels[index])


def small_pil_loader(path: Path, setting: Setting, workers: int) -> Iterable[Any]:
    """What most people use for CIFAR-10, on the images of a .beton file."""
    from torchvision import transforms

    stored = open_dataset(path)
    images = np.stack([stored.samples.image(index) for index in range(len(stored))])
    samples = ArraySamples(images, stored.labels)

    steps = [
        transforms.RandomCrop(setting.resolution, padding=SMALL_SHIFT),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET.mean, IMAGENET.std),
    ]
    return DataLoader(
        _PILImages(samples, transforms.Compose(steps)),
        batch_size=setting.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
    )
