"""The splits of an image folder: folders of its own, or drawn from the training images by seed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anynet_dist.data.image_folders import class_folders, is_helper, readable
from anynet_dist.data.order import Indices
from anynet_dist.data.samples import FolderSamples, Samples, SomeSamples
from anynet_dist.system.errors import UserError

logger = logging.getLogger(__name__)

FOLDER_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""What the folders of the splits are called, in capitals or not."""


@dataclass(frozen=True)
class Fractions:
    """Shares of the training images that are drawn as other splits, with the classes in proportion."""

    val: float = 0.0
    test: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, fraction in (("--val-fraction", self.val), ("--test-fraction", self.test)):
            if not 0 <= fraction < 1:
                raise UserError(f"{name} must lie between 0 and 1, not {fraction}")
        if self.val + self.test >= 1:
            raise UserError(
                f"--val-fraction {self.val} and --test-fraction {self.test} leave no images to train on"
            )

    def __bool__(self) -> bool:
        return self.val > 0 or self.test > 0

    def __str__(self) -> str:
        fractions = ", ".join(
            f"{name} {fraction}" for name, fraction in (("val", self.val), ("test", self.test)) if fraction
        )
        return f"drawn by seed {self.seed}, stratified by class: {fractions}"


@dataclass(frozen=True)
class FolderSplits:
    """An image folder in splits: train and val, and test where there is one."""

    classes: tuple[str, ...]
    samples: dict[str, Samples]
    rules: dict[str, str]
    """How each split came about."""


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of splits in `root`, by split; none where `root` holds class folders itself, of which one
    may be called "train" too.

    Raises UserError where two folders have names of one split.
    """
    if not root.is_dir():
        raise UserError(f"{readable(root)}: no such folder")
    folders = [entry for entry in sorted(root.iterdir()) if entry.is_dir() and not is_helper(entry.name)]
    found: dict[str, Path] = {}
    for split, names in FOLDER_NAMES.items():
        named = [folder for folder in folders if folder.name.lower() in names]
        if len(named) > 1:
            both = " and ".join(f"{readable(folder.name)}/" for folder in named)
            raise UserError(f"{readable(root)}: has {both}, which both mean '{split}': move one of them away")
        if named:
            found[split] = named[0]
    return found if "train" in found and _has_folders(found["train"]) else {}


def refuse_splits(root: Path) -> None:
    """Raises UserError where `root`, to be one split, holds several, which would be taken for classes."""
    found = split_folders(root)
    if len(found) > 1 or (found and len(class_folders(root)) == 1):
        names = ", ".join(f"{readable(folder.name)}/" for folder in found.values())
        raise UserError(
            f"{readable(root)}: holds the splits {names}: name {readable(found['train'])} instead"
        )


def _has_folders(folder: Path) -> bool:
    return any(entry.is_dir() and not is_helper(entry.name) for entry in folder.iterdir())


def open_splits(root: Path, fractions: Fractions) -> FolderSplits:
    """The splits of an image folder: what has a folder of its own, and what `fractions` draw from train.

    Without a val folder or a fraction for it, test takes its place. Raises UserError where there is no val, a
    fraction is asked for a split that has a folder, or a class of another split does not occur in train.
    """
    folders = split_folders(root)
    if "test" in folders and not _has_folders(folders["test"]):
        logger.warning("%s: left out: it holds no class folders", readable(folders.pop("test")))
    if "val" not in folders and not fractions.val and "test" in folders:
        folders["val"] = folders.pop("test")
    for split, fraction in (("val", fractions.val), ("test", fractions.test)):
        if fraction and split in folders:
            raise UserError(
                f"{readable(folders[split])} is there already: leave out --{split}-fraction, or move it away"
            )
    if "val" not in folders and not fractions.val:
        raise UserError(_no_val(root, bool(folders)))
    train = folders.pop("train", root)
    classes = tuple(class_folders(train))
    for folder in folders.values():
        _check_classes(folder, classes, train)
    drawn = _draw(FolderSamples(train, classes), fractions)
    others = {split: FolderSamples(folder, classes) for split, folder in folders.items()}
    samples: dict[str, Samples] = {**drawn, **others}
    rules = {split: f"folder {readable(folder.name)}" for split, folder in folders.items()}
    rules |= dict.fromkeys(drawn, str(fractions) if fractions else f"folder {readable(train.name)}")
    return FolderSplits(classes, {split: samples[split] for split in FOLDER_NAMES if split in samples}, rules)


def _no_val(root: Path, has_train: bool) -> str:
    held = "holds train/ alone" if has_train else "holds no train/CLASS/IMAGE"
    return (
        f"{readable(root)}: {held}: expected train/CLASS/IMAGE and val/CLASS/IMAGE (or valid, validation,"
        " dev, test) in it; or give --val-fraction 0.1, which draws a validation split from the images of"
        " train/, or of class folders that lie in it directly"
    )


def _check_classes(folder: Path, classes: tuple[str, ...], train: Path) -> None:
    unknown = set(class_folders(folder)) - set(classes)
    if unknown:
        raise UserError(f"{readable(folder)}: class '{min(unknown)}' does not occur in {readable(train)}")


def _draw(samples: FolderSamples, fractions: Fractions) -> dict[str, Samples]:
    if not fractions:
        return {"train": samples}
    parts = stratified(samples.labels, {"val": fractions.val, "test": fractions.test}, fractions.seed)
    return {split: SomeSamples(samples, indices) for split, indices in parts.items()}


def stratified(labels: Indices, fractions: dict[str, float], seed: int) -> dict[str, Indices]:
    """The indices of `train` and of a part for each fraction that is not 0, all sorted, drawn by seed.

    A part has round(fraction * N) samples with the classes in proportion; what a class cannot give goes
    where the rest is largest. Each class keeps a sample in train. Raises UserError where a part is empty.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # shuffled within each class
    counts = np.bincount(labels)
    starts, free = np.cumsum(counts) - counts, np.maximum(counts - 1, 0)
    parts = {}
    for name, fraction in fractions.items():
        if not fraction:
            continue
        taken = np.minimum(_quotas(counts, fraction, generator), free)
        if not taken.any():
            raise UserError(f"a fraction of {fraction} of {len(labels)} images leaves '{name}' empty")
        chosen = [order[start : start + count] for start, count in zip(starts, taken, strict=True)]
        parts[name] = np.sort(np.concatenate(chosen))
        starts, free = starts + taken, free - taken
    train = np.setdiff1d(np.arange(len(labels)), np.concatenate(list(parts.values())))
    return {"train": train, **parts}


def _quotas(counts: Indices, fraction: float, generator: np.random.Generator) -> Indices:
    exact = np.round(counts * fraction, 9)
    quotas = np.floor(exact).astype(np.int64)
    rest = round(float(counts.sum() * fraction)) - int(quotas.sum())
    largest_first = np.lexsort((generator.random(len(counts)), quotas - exact))
    quotas[largest_first[: max(rest, 0)]] += 1
    return quotas
