"""Splits of image folders: folders of their own, or drawn by seed with the classes in proportion."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anynet_dist.data.beton.build import build_source
from anynet_dist.data.dataset import open_dataset
from anynet_dist.data.samples import Samples
from anynet_dist.data.sources import Source, load_source
from anynet_dist.data.splits import Fractions, stratified
from anynet_dist.system.errors import UserError

PER_CLASS = {"cat": 20, "dog": 10, "emu": 1}


def fill(root: Path, **counts: int) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (4, 4)).save(root / name / f"{number:02}.png")
    return root


def names(samples: Samples) -> list[str]:
    return [samples.name(index) for index in range(len(samples.labels))]


@pytest.mark.parametrize("held_out", ["val", "valid", "validation", "dev", "Valid"])
@pytest.mark.parametrize("train", ["train", "Train"])
def test_a_validation_folder_by_its_usual_names(train: str, held_out: str, tmp_path: Path) -> None:
    fill(tmp_path / train, cat=3, dog=2)
    fill(tmp_path / held_out, dog=1)
    source = load_source("imagefolder", tmp_path)
    assert (len(source.train.labels), source.val.labels.tolist(), source.test) == (5, [1], None)
    assert source.rules == {"train": f"folder {train}", "val": f"folder {held_out}"}


def test_a_third_folder_becomes_a_file_of_its_own(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("valid", 2), ("test", 1)):
        fill(tmp_path / "root" / split, cat=count, dog=count)
    sidecars = build_source(load_source("imagefolder", tmp_path / "root"), tmp_path / "out", workers=1)
    assert {split: sidecar.num_samples for split, sidecar in sidecars.items()} == {
        "train": 6,
        "val": 4,
        "test": 2,
    }
    assert len(open_dataset(tmp_path / "out" / "test.beton")) == 2


@pytest.mark.parametrize("inside", [".", "train"])
def test_splits_are_drawn_from_a_folder_of_classes_and_from_train_alone(inside: str, tmp_path: Path) -> None:
    fill(tmp_path / inside, **PER_CLASS)
    source = load_source("imagefolder", tmp_path, fractions=Fractions(val=0.1, test=0.2, seed=3))
    counts = {split: np.bincount(part.labels, minlength=3).tolist() for split, part in source.splits.items()}
    assert counts == {"train": [14, 7, 1], "val": [2, 1, 0], "test": [4, 2, 0]}
    drawn = [name for part in source.splits.values() for name in names(part)]
    assert sorted(drawn) == sorted(str(path) for path in (tmp_path / inside).rglob("*.png"))
    again = load_source("imagefolder", tmp_path, fractions=Fractions(val=0.1, test=0.2, seed=3))
    other = load_source("imagefolder", tmp_path, fractions=Fractions(val=0.1, test=0.2, seed=4))
    assert names(again.val) == names(source.val) != names(other.val)
    rule = "drawn by seed 3, stratified by class: val 0.1, test 0.2"
    assert source.rules == {"train": rule, "val": rule, "test": rule}


def test_a_share_is_drawn_beside_the_folders_there_are(tmp_path: Path) -> None:
    fill(tmp_path / "train", **PER_CLASS)
    fill(tmp_path / "test", cat=4)
    source = load_source("imagefolder", tmp_path, fractions=Fractions(val=0.1))
    assert isinstance(source, Source)
    assert source.test is not None
    assert (len(source.val.labels), len(source.test.labels)) == (3, 4)
    assert source.rules["test"] == "folder test"
    with pytest.raises(UserError, match=r"test is there already: leave out --test-fraction"):
        load_source("imagefolder", tmp_path, fractions=Fractions(val=0.1, test=0.1))


def test_classes_too_small_for_a_share_are_drawn_from_in_turn() -> None:
    labels = np.repeat(np.arange(100), 3)
    parts = stratified(labels, {"val": 0.1, "test": 0.1}, seed=0)
    assert {name: len(part) for name, part in parts.items()} == {"train": 240, "val": 30, "test": 30}
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(300))
    assert np.bincount(labels[parts["val"]]).max() == 1
    assert np.bincount(labels[parts["train"]]).min() >= 1


@pytest.mark.parametrize(
    ("val", "test", "message"),
    [
        (1.0, 0.0, "--val-fraction must lie between 0 and 1"),
        (-0.1, 0.0, "--val-fraction must lie between 0 and 1"),
        (float("nan"), 0.0, "--val-fraction must lie between 0 and 1"),
        (0.5, 0.5, "leave no images to train on"),
        (0.001, 0.0, "leaves 'val' empty"),
    ],
)
def test_shares_that_cannot_be_are_refused(val: float, test: float, message: str, tmp_path: Path) -> None:
    fill(tmp_path, **PER_CLASS)
    with pytest.raises(UserError, match=message):
        load_source("imagefolder", tmp_path, fractions=Fractions(val, test))


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "flat", cat=2)
    with pytest.raises(UserError, match=r"holds no train/CLASS/IMAGE: .* give --val-fraction 0\.1"):
        load_source("imagefolder", tmp_path / "flat")
    fill(tmp_path / "alone" / "train", cat=2)
    with pytest.raises(UserError, match=r"holds train/ alone: .* give --val-fraction 0\.1"):
        load_source("imagefolder", tmp_path / "alone")
    fill(tmp_path / "two" / "train", cat=2)
    for name in ("val", "valid"):
        fill(tmp_path / "two" / name, cat=2)
    with pytest.raises(UserError, match=r"has val/ and valid/, which both mean 'val'"):
        load_source("imagefolder", tmp_path / "two")
    with pytest.raises(UserError, match="digits has its own splits: leave out --val-fraction"):
        load_source("digits", fractions=Fractions(val=0.1))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    fill(tmp_path, bus=10, train=10)
    source = load_source("imagefolder", tmp_path, fractions=Fractions(val=0.1))
    assert source.classes == ("bus", "train")


def test_a_test_folder_without_classes_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "val"):
        fill(tmp_path / split, cat=2)
    fill(tmp_path, test=2)
    with caplog.at_level(logging.WARNING, "anynet_dist"):
        assert load_source("imagefolder", tmp_path).test is None
    assert f"{tmp_path}/test: left out: it holds no class folders" in caplog.text


@pytest.mark.parametrize("splits", [("train",), ("train", "val"), ("Train", "Test")])
def test_a_folder_of_splits_is_not_taken_for_classes(splits: tuple[str, ...], tmp_path: Path) -> None:
    for split in splits:
        fill(tmp_path / split, cat=2)
    with pytest.raises(
        UserError, match=rf"holds the splits {splits[0]}/.*: name {tmp_path}/{splits[0]} instead"
    ):
        open_dataset(tmp_path)
