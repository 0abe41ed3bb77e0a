"""Where images come from: `digits`, `cifar10`, `imagefolder`, `imagenet`, each as a training and a
validation split."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from anynet_dist.data.samples import ArraySamples, FolderSamples, Samples, class_names
from anynet_dist.system.errors import UserError, unknown_name

log = logging.getLogger(__name__)

DIGITS_SIDE = 32
DIGITS_HELD_OUT = 0.2
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Source:
    """A data set in two splits. `val` is what the field reports on: CIFAR-10's test images, ImageNet's
    validation."""

    name: str
    classes: tuple[str, ...]
    train: Samples
    val: Samples

    @property
    def splits(self) -> Mapping[str, Samples]:
        """Both splits by name."""
        return dict(zip(SPLITS, (self.train, self.val), strict=True))


def load_source(
    name: str, root: Path | None = None, *, allow_download: bool = False, seed: int = 0
) -> Source:
    """The source called `name`; `root` is its folder (digits needs none), `seed` splits the digits.

    Raises UserError when the name is unknown or the data is not there.
    """
    if name not in SOURCES:
        raise unknown_name("data source", name, SOURCES)
    if name == "digits":
        if root is not None or allow_download:
            raise UserError("digits come with scikit-learn: they take neither a root nor a download")
        return _digits(seed)
    if root is None:
        raise UserError(f"{name} needs its folder: give --root")
    if allow_download and name != "cifar10":
        raise UserError(f"{name} cannot be downloaded; give the folder that holds it with --root")
    return _READERS[name](root, allow_download)


def _digits(seed: int) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey, enlarged four times by bicubic interpolation to
    32x32 RGB.

    A fifth of them, drawn by `seed` with the classes in proportion, is held out for validation.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = np.stack([_enlarge(digit) for digit in np.rint(data.images * (255 / 16)).astype(np.uint8)])
    labels = data.target.astype(np.int64)
    train, val = train_test_split(
        np.arange(len(labels)), test_size=DIGITS_HELD_OUT, stratify=labels, random_state=seed
    )
    classes = tuple(str(digit) for digit in range(10))
    return Source("digits", classes, *(ArraySamples(images[part], labels[part]) for part in (train, val)))


def _enlarge(digit: np.ndarray) -> np.ndarray:
    grey = Image.fromarray(digit).resize((DIGITS_SIDE, DIGITS_SIDE), Image.Resampling.BICUBIC)
    return np.asarray(grey.convert("RGB"))


def _cifar10(root: Path, allow_download: bool) -> Source:
    if (root / "train").is_dir():
        return _folder("cifar10", root)
    from torchvision.datasets import CIFAR10

    try:
        parts = [CIFAR10(str(root), train=train, download=allow_download) for train in (True, False)]
    except RuntimeError as error:
        raise UserError(
            f"{root}: holds neither CIFAR-10's own files nor train/ and test/ class folders; "
            "add --download to fetch it, or give the right --root"
        ) from error
    train, val = (ArraySamples(part.data, np.array(part.targets)) for part in parts)
    return Source("cifar10", tuple(parts[0].classes), train, val)


def _imagenet(root: Path) -> Source:
    source = _folder("imagenet", root)
    strange = [name for name in source.classes if not re.fullmatch(r"n\d{8}", name)]
    if strange:
        raise UserError(
            f"{root}: ImageNet's class folders are WordNet numbers such as n01440764, not '{strange[0]}'; "
            "for other folders use the source 'imagefolder'"
        )
    return source


def _folder(name: str, root: Path) -> Source:
    held_out = [root / split for split in ("val", "test") if (root / split).is_dir()]
    if not (root / "train").is_dir() or not held_out:
        raise UserError(f"{root}: expected train/CLASS/IMAGE and val/CLASS/IMAGE (or test/CLASS/IMAGE) in it")
    if len(held_out) > 1:
        log.warning("%s: has val/ and test/; val/ is taken for validation, test/ is left out", root)
    classes = class_names(root / "train")
    unknown = set(class_names(held_out[0])) - set(classes)
    if unknown:
        raise UserError(f"{held_out[0]}: class '{min(unknown)}' does not occur in {root / 'train'}")
    return Source(
        name, tuple(classes), FolderSamples(root / "train", classes), FolderSamples(held_out[0], classes)
    )


_READERS: dict[str, Callable[[Path, bool], Source]] = {
    "cifar10": _cifar10,
    "imagefolder": lambda root, _: _folder("imagefolder", root),
    "imagenet": lambda root, _: _imagenet(root),
}
SOURCES = ("digits", *_READERS)
