"""A data set before it is read: a .beton file or an image folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anynet_dist.data.beton.format import BetonTable
from anynet_dist.data.beton.sidecar import open_beton
from anynet_dist.data.order import Indices
from anynet_dist.data.samples import (
    BetonSamples,
    FolderSamples,
    Samples,
    class_names,
    open_image,
    unreadable,
)
from anynet_dist.data.splits import refuse_splits
from anynet_dist.data.transforms.normalisation import constant_channels, scale
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import require_regular_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataInfo:
    """What is known of a data set before it is read."""

    path: Path
    num_samples: int
    classes: tuple[str, ...]
    mean: tuple[float, float, float] | None
    """Per channel, in 0..1, of the images themselves; None for an image folder, where nobody computed it."""
    std: tuple[float, float, float] | None
    """As for the mean; 1 for a channel that is constant, which is thus shifted but not scaled."""
    constant_shape: tuple[int, int] | None
    """(height, width) when all images are of one size (for a folder: as far as a few of them show), else
    None."""
    labels: Indices
    """Class numbers, shape (num_samples,)."""
    samples: Samples
    table: BetonTable | None
    """The tables of a .beton file, None for an image folder."""


def open_dataset(path: Path | str, classes: Sequence[str] | None = None) -> DataInfo:
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
        return DataInfo(
            path,
            len(folder.labels),
            tuple(classes),
            None,
            None,
            _folder_shape(folder),
            folder.labels,
            folder,
            None,
        )
    table, sidecar = open_beton(path)
    if classes is not None and tuple(classes) != sidecar.classes:
        raise UserError(f"{path}: its classes are not those of the training split")
    samples = BetonSamples(table)
    constant = constant_channels(sidecar.std)
    if constant and classes is None:  # the training split: nobody divides by the deviation of another
        logger.info(
            "%s: its images are constant in %s, which is not scaled (std 1); data.std sets something else",
            path,
            " and ".join(constant),
        )
    return DataInfo(
        path,
        len(table),
        sidecar.classes,
        sidecar.mean,
        scale(sidecar.std),
        table.constant_shape,
        table.labels,
        samples,
        table,
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


def typical_side(data: DataInfo) -> int:
    """The median of the images' shorter sides in pixels; of a folder, that of 64 images spread over it."""
    if data.table is not None:
        return int(np.median(np.minimum(data.table.heights, data.table.widths)))
    assert isinstance(data.samples, FolderSamples)
    return int(np.median([min(shape) for shape in _some_shapes(data.samples)]))
