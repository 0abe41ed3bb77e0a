from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from anynet_dist.data.sources import Source, load_source, register_source
from anynet_dist.data.splits import Fractions
from anynet_dist.system.errors import UserError


def test_digits_are_split_by_seed_with_classes_in_proportion() -> None:
    source = load_source("digits")
    assert len(source.train.labels) == 1437
    assert len(source.val.labels) == 360
    assert set(np.bincount(source.val.labels)) <= {34, 35, 36, 37}
    assert np.array_equal(source.val.labels, load_source("digits").val.labels)
    assert not np.array_equal(source.val.labels, load_source("digits", seed=1).val.labels)


def test_digits_show_the_digits() -> None:
    source = load_source("digits")
    image = source.train.image(0)
    assert image.shape == (32, 32, 3)
    assert (image[..., 0] == image[..., 1]).all()
    coarse = image[..., 0].reshape(8, 4, 8, 4).mean(axis=(1, 3)).reshape(-1)
    originals = load_digits().data * (255 / 16)
    nearest = np.abs(originals - coarse).mean(axis=1).argmin()
    assert load_digits().target[nearest] == source.train.labels[0]


def test_no_digit_is_in_both_splits() -> None:
    source = load_source("digits")
    parts = [
        {samples.image(i).tobytes() for i in range(len(samples.labels))} for samples in source.splits.values()
    ]
    assert len(parts[0] & parts[1]) == 0


def folder_source(photos: Path, root: Path, held_out: str = "val") -> Path:
    shutil.copytree(photos, root / "train")
    (root / held_out).mkdir()
    shutil.copytree(photos / "flower", root / held_out / "flower")
    return root


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_image_folder(photos: Path, tmp_path: Path, held_out: str) -> None:
    source = load_source("imagefolder", folder_source(photos, tmp_path, held_out))
    assert source.classes == ("china", "flower")
    assert len(source.train.labels) == 24
    assert source.val.labels.tolist() == [1] * 12  # numbered as in train, though china is missing
    assert source.val.name(0) == str(tmp_path / held_out / "flower" / "00.jpg")


def test_an_unknown_class_in_validation_is_refused(photos: Path, tmp_path: Path) -> None:
    (folder_source(photos, tmp_path) / "val" / "dog").mkdir()
    with pytest.raises(UserError, match="class 'dog' does not occur in"):
        load_source("imagefolder", tmp_path)


def test_imagenet_wants_wordnet_numbers(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not 'china'.*imagefolder"):
        load_source("imagenet", folder_source(photos, tmp_path))


def test_cifar10_in_its_own_files(tmp_path: Path) -> None:
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    names = [file for file, _ in (*CIFAR10.train_list, *CIFAR10.test_list)]
    for name in names:
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [0, 1, 2, 3, 4, 9]}))
    with pytest.raises(UserError, match="--download"):
        load_source("cifar10", tmp_path)  # the checksums are not those of CIFAR-10


def test_a_download_without_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(
        UserError, match=rf"cannot be downloaded .*put cifar-10-python\.tar\.gz into {tmp_path}"
    ):
        load_source("cifar10", tmp_path, allow_download=True)


def test_cifar10_as_an_image_folder(photos: Path, tmp_path: Path) -> None:
    source = load_source("cifar10", folder_source(photos, tmp_path, "test"))
    assert source.name == "cifar10"
    assert len(source.val.labels) == 12


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        load_source("cifar")
    with pytest.raises(UserError, match="--root"):
        load_source("imagenet")
    with pytest.raises(UserError, match="cannot be downloaded"):
        load_source("imagenet", tmp_path, allow_download=True)
    with pytest.raises(UserError, match="expected train/CLASS/IMAGE"):
        load_source("imagefolder", tmp_path)
    with pytest.raises(UserError, match="digits needs no folder: leave out --root"):
        load_source("digits", tmp_path)


@pytest.mark.usefixtures("registries")
def test_a_source_of_ones_own_gets_what_it_asks_for(tmp_path: Path) -> None:
    @register_source("mine")
    def mine(seed: int, root: Path | None = None) -> Source:
        return replace(load_source("digits", seed=seed), name=f"mine in {root}")

    source = load_source("mine", tmp_path, seed=1)
    assert source.name == f"mine in {tmp_path}"
    assert np.array_equal(source.val.labels, load_source("digits", seed=1).val.labels)
    assert load_source("mine").name == "mine in None"
    with pytest.raises(UserError, match=r"mine cannot be downloaded; give the folder .* --root"):
        load_source("mine", allow_download=True)
    with pytest.raises(UserError, match="mine has its own splits"):
        load_source("mine", fractions=Fractions(val=0.5))


@pytest.mark.usefixtures("registries")
def test_what_is_no_source_is_refused() -> None:
    register_source("nothing")(lambda: None)  # type: ignore[type-var]
    with pytest.raises(UserError, match="source 'nothing' must return a Source, not a NoneType"):
        load_source("nothing")
    with pytest.raises(UserError, match="source 'x' needs an argument 'folder' that is never passed"):
        register_source("x")(lambda folder: None)  # type: ignore[type-var]
