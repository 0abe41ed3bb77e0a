"""A data set before it is read: a .beton file or an image folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from anynet_dist.data.beton.format import BetonTable
from anynet_dist.data.beton.sidecar import open_beton
from anynet_dist.data.decoding import open_image, unreadable
from anynet_dist.data.order import Indices
from anynet_dist.data.samples import (
    BetonSamples,
    FolderSamples,
    Samples,
    class_names,
)
from anynet_dist.data.splits import refuse_splits
from anynet_dist.data.transforms.normalisation import Normalisation, constant_channels, scale
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import require_regular_file

logger = logging.getLogger(__name__)


Channels = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Labelled images of one split, or some of them; what is known before any is read."""

    path: Path
    samples: Samples
    """All images that are stored, also those outside of the subset."""
    classes: tuple[str, ...] = ()
    mean: Channels | None = None
    """Per channel, in 0..1, of the images themselves; None for an image folder, which is not measured."""
    std: Channels | None = None
    """As for the mean; 1 for a channel that is constant, which is thus shifted but not scaled."""
    constant_shape: tuple[int, int] | None = None
    """(height, width) when all images are of one size (for a folder: as far as a few of them show), else
    None."""
    indices: Indices | None = None
    """The subset: indices of stored samples. None is all of them."""

    def __len__(self) -> int:
        return self.num_stored if self.indices is None else len(self.indices)

    @property
    def num_stored(self) -> int:
        """Samples that are stored, in the subset or not."""
        return len(self.samples.labels)

    @property
    def labels(self) -> Indices:
        """The class numbers of its samples, shape (len(self),)."""
        return self.samples.labels if self.indices is None else self.samples.labels[self.indices]

    @property
    def table(self) -> BetonTable | None:
        """The tables of a .beton file, None for an image folder."""
        return self.samples.table if isinstance(self.samples, BetonSamples) else None

    @property
    def normalisation(self) -> Normalisation | None:
        """By its own mean and deviation, where they were measured."""
        return None if self.mean is None or self.std is None else Normalisation(self.mean, self.std)

    def subset(self, indices: ArrayLike) -> Self:
        """The samples `indices` of it; raises UserError for one that it does not have."""
        chosen = np.asarray(indices, np.int64)
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise UserError(f"{self.path}: indices must lie between 0 and {len(self) - 1}")
        return replace(self, indices=chosen if self.indices is None else self.indices[chosen])


def open_dataset(path: Path | str, classes: Sequence[str] | None = None) -> Dataset:
    """Open a .beton file, or the folder of one split (CLASS/IMAGE); raises UserError when it cannot be used.

    `classes` are those of the training split: a folder's are numbered alike, a file's must be the same.
    """
    path = Path(path)
    if path.is_dir():
        refuse_splits(path)
        found = class_names(path)
        unknown = set(found) - set(classes or found)
        if unknown:
            raise UserError(f"{path}: class '{min(unknown)}' does not occur in the training split")
        classes = classes or found
        folder = FolderSamples(path, classes)
        return Dataset(
            path=path, samples=folder, classes=tuple(classes), constant_shape=_folder_shape(folder)
        )
    table, sidecar = open_beton(path)
    if classes is not None and tuple(classes) != sidecar.classes:
        raise UserError(f"{path}: its classes are not those of the training split")
    constant = constant_channels(sidecar.std)
    if constant and classes is None:  # the training split: nobody divides by the deviation of another
        logger.info(
            "%s: its images are constant in %s, which is not scaled (std 1); data.std sets something else",
            path,
            " and ".join(constant),
        )
    return Dataset(
        path=path,
        samples=BetonSamples(table),
        classes=sidecar.classes,
        mean=sidecar.mean,
        std=scale(sidecar.std),
        constant_shape=table.constant_shape,
    )


def _folder_shape(folder: FolderSamples) -> tuple[int, int] | None:
    """(height, width) if 64 images, spread over the folder, are of one size."""
    shapes = set(_some_shapes(folder))
    return shapes.pop() if len(shapes) == 1 else None


def _some_shapes(folder: FolderSamples) -> list[tuple[int, int]]:
    shapes = []
    for index in np.unique(np.linspace(0, len(folder.labels) - 1, 64).astype(int)):
        path = folder.path(index)
        require_regular_file(path)
        try:
            with open_image(path) as image:
                shapes.append((image.height, image.width))
        except Exception as error:  # decoders raise all kinds of errors
            raise unreadable(path, error) from error
    return shapes


def typical_side(data: Dataset) -> int:
    """The median of the images' shorter sides in pixels; of a folder, that of 64 images spread over it."""
    if data.table is not None:
        return int(np.median(np.minimum(data.table.heights, data.table.widths)))
    assert isinstance(data.samples, FolderSamples)
    return int(np.median([min(shape) for shape in _some_shapes(data.samples)]))


def one_shape(data: Dataset) -> tuple[int, int]:
    """Height and width of all images, for the device loader. Raises UserError where they differ."""
    if data.constant_shape is None:
        raise UserError(
            f"{data.path}: its images differ in size, but loader 'device' keeps images of one size in "
            "memory; take loader 'ffcv' or 'torch'"
        )
    return data.constant_shape
