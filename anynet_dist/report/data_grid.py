"""A look at a data set: some of its images, as they are stored or as training would augment them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anynet_dist.data.batch_plan import BatchPlan
from anynet_dist.data.dataset import Dataset
from anynet_dist.data.loaders.base import Placement
from anynet_dist.data.loaders.factory import train_loader
from anynet_dist.data.order import Indices
from anynet_dist.data.transforms.augmentation import Augmentation
from anynet_dist.data.transforms.normalisation import Normalisation
from anynet_dist.report.grids import write_grid

COLUMNS = 8


def show_stored(data: Dataset, out: Path, count: int, seed: int) -> None:
    """Write `count` random images with their classes and sizes (width x height in pixels)."""
    images, captions = [], []
    for index in chosen(data, count, seed):
        image = data.samples.image(int(index))
        images.append(image)
        captions.append(f"{_class(data, index)}\n{image.shape[1]} x {image.shape[0]}")
    write_grid(out, images, captions, COLUMNS)


def show_augmented(
    data: Dataset,
    out: Path,
    count: int,
    augment: Augmentation,
    normalisation: Normalisation,
    resolution: int,
    seed: int,
) -> None:
    """Write `count` random images, one a row: as stored, then as the run with `seed` sees it in its first
    epochs, at `resolution` pixels."""
    indices = chosen(data, count, seed)
    part = data.subset(np.searchsorted(_indices(data), indices))
    loader = train_loader(
        part,
        BatchPlan(global_batch=len(indices), drop_last=False),
        augment,
        resolution=resolution,
        seed=seed,
        normalisation=normalisation,
        placement=Placement(workers=0),
        loader="torch",
    )
    seen: dict[int, list[NDArray[np.uint8]]] = {int(index): [] for index in indices}
    shift, scale = np.array(normalisation.mean), np.array(normalisation.std)
    for epoch in range(COLUMNS - 1):
        loader.set_epoch(epoch)
        order = loader.order()
        (batch, _) = next(iter(loader))
        pixels = batch.permute(0, 2, 3, 1).numpy() * scale + shift
        for index, image in zip(order, pixels, strict=True):
            if len(seen[int(index)]) > epoch:
                continue  # a copy of it: augment.repeats
            seen[int(index)].append((image * 255).round().clip(0, 255).astype(np.uint8))
    loader.close()
    images, captions = [], []
    for index, views in seen.items():
        images += [data.samples.image(index), *views]
        captions += [_class(data, index), *(f"epoch {epoch}" for epoch in range(1, COLUMNS))]
    write_grid(out, images, captions, COLUMNS)


def chosen(data: Dataset, count: int, seed: int) -> Indices:
    """`count` stored samples of a data set, drawn at random, class by class as far as that goes."""
    indices, labels = _indices(data), data.labels
    shuffled = np.random.default_rng(seed).permutation(len(indices))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, first, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    turns = np.arange(len(by_class)) - np.repeat(first, sizes)  # of each sample within its class
    return np.sort(indices[by_class[np.argsort(turns, kind="stable")][:count]])


def _indices(data: Dataset) -> Indices:
    return np.arange(data.num_stored) if data.indices is None else np.sort(data.indices)


def _class(data: Dataset, index: int) -> str:
    label = int(data.samples.labels[index])
    return data.classes[label] if label < len(data.classes) else f"class {label}"
