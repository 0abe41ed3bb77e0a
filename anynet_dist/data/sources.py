"""Where images come from: `digits`, `cifar10`, `imagefolder`, `imagenet` and the users' own sources, each as
a training and a validation split, some also with a test split."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.error import URLError

import numpy as np
from PIL import Image

from anynet_dist.data.samples import ArraySamples, Samples
from anynet_dist.data.splits import Fractions, open_splits, split_folders
from anynet_dist.system.errors import UserError
from anynet_dist.system.registry import Registry

DIGITS_SIDE = 32
DIGITS_HELD_OUT = 0.2
SPLITS = ("train", "val")
"""Those that each source has."""


@dataclass(frozen=True)
class Source:
    """A data set in splits. `val` is what the field reports on: CIFAR-10's test images, ImageNet's
    validation."""

    name: str
    classes: tuple[str, ...]
    train: Samples
    val: Samples
    test: Samples | None = None
    rules: Mapping[str, str] = field(default_factory=dict)
    """How each split came about, where it is not the data set's own."""

    @property
    def splits(self) -> Mapping[str, Samples]:
        """The splits by name."""
        own = {"train": self.train, "val": self.val}
        return own if self.test is None else {**own, "test": self.test}


MakeSource = Callable[..., Source]
Registered = TypeVar("Registered", bound=MakeSource)

OFFERED = ("root", "allow_download", "seed", "fractions")
SOURCES: Registry[MakeSource] = Registry("source", option="data source", passed=OFFERED, functions=True)


def register_source(name: str) -> Callable[[Registered], Registered]:
    """Register a function that returns a Source under `name`, for `anynet data build NAME`.

    It asks by name for any of `root` (a folder, None where none is given), `allow_download`, `seed` of splits
    that are drawn and `fractions` of the training images that become other splits.
    """
    return SOURCES.register(name)


def load_source(
    name: str,
    root: Path | None = None,
    *,
    allow_download: bool = False,
    seed: int = 0,
    fractions: Fractions | None = None,
) -> Source:
    """The source called `name`; `root` is its folder (digits needs none), `seed` splits the digits.

    `fractions` of an image folder's training images become its other splits. Raises UserError when the name
    is unknown, the source cannot use an argument, or the data is not there.
    """
    make, fractions = SOURCES.find(name), fractions or Fractions()
    takes = inspect.signature(make).parameters
    if fractions and "fractions" not in takes:
        raise UserError(f"{name} has its own splits: leave out --val-fraction and --test-fraction")
    if root is not None and "root" not in takes:
        raise UserError(f"{name} needs no folder: leave out --root")
    if root is None and "root" in takes and takes["root"].default is inspect.Parameter.empty:
        raise UserError(f"{name} needs its folder: give --root")
    if allow_download and "allow_download" not in takes:
        where = "give the folder that holds it with --root" if "root" in takes else "leave out --download"
        raise UserError(f"{name} cannot be downloaded; {where}")
    offered = dict(zip(OFFERED, (root, allow_download, seed, fractions), strict=True))
    source = make(**{argument: value for argument, value in offered.items() if argument in takes})
    if not isinstance(source, Source):
        raise UserError(f"source '{name}' must return a Source, not a {type(source).__name__}")
    return source


@register_source("digits")
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
    first, second = (ArraySamples(images[part], labels[part]) for part in (train, val))
    return Source("digits", classes, first, second)


def _enlarge(digit: np.ndarray) -> np.ndarray:
    grey = Image.fromarray(digit).resize((DIGITS_SIDE, DIGITS_SIDE), Image.Resampling.BICUBIC)
    return np.asarray(grey.convert("RGB"))


@register_source("cifar10")
def _cifar10(root: Path, allow_download: bool) -> Source:
    if root.is_dir() and split_folders(root):
        return _folder("cifar10", root)
    from torchvision.datasets import CIFAR10

    try:
        parts = [CIFAR10(str(root), train=train, download=allow_download) for train in (True, False)]
    except (URLError, TimeoutError, ConnectionError) as error:
        raise UserError(
            f"CIFAR-10 cannot be downloaded ({getattr(error, 'reason', error)}): where there is no network,"
            f" fetch {CIFAR10.url} elsewhere, put {CIFAR10.filename} into {root} and repeat this command"
        ) from error
    except RuntimeError as error:
        raise UserError(
            f"{root}: holds neither CIFAR-10's own files nor train/ and test/ class folders; "
            "add --download to fetch it, or give the right --root"
        ) from error
    train, val = (ArraySamples(part.data, np.array(part.targets)) for part in parts)
    return Source("cifar10", tuple(parts[0].classes), train, val)


@register_source("imagefolder")
def _imagefolder(root: Path, fractions: Fractions) -> Source:
    return _folder("imagefolder", root, fractions)


@register_source("imagenet")
def _imagenet(root: Path, fractions: Fractions) -> Source:
    source = _folder("imagenet", root, fractions)
    strange = [name for name in source.classes if not re.fullmatch(r"n\d{8}", name)]
    if strange:
        raise UserError(
            f"{root}: ImageNet's class folders are WordNet numbers such as n01440764, not '{strange[0]}'; "
            "for other folders use the source 'imagefolder'"
        )
    return source


def _folder(name: str, root: Path, fractions: Fractions | None = None) -> Source:
    found = open_splits(root, fractions or Fractions())
    return Source(name, found.classes, **found.samples, rules=found.rules)
