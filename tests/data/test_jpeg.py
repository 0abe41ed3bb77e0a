"""JPEGs decoded only as far down as is asked for: the same pixels, and the same errors."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

from anynet_dist.data.dataset import Dataset
from anynet_dist.data.decoding import ImageError, Pixels
from anynet_dist.data.jpeg import decode_jpeg, upright_rows
from anynet_dist.data.samples import FolderSamples, Samples
from anynet_dist.data.transforms.augmentation import Augmentation
from tests.data.loading import make_train

PHOTO = load_sample_image("flower.jpg")[:219, :352]  # no whole number of rows of blocks


def jpeg(mode: str = "RGB", orientation: int = 1, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(PHOTO).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(buffer, "JPEG", exif=exif, **options)
    return buffer.getvalue()


def decoded(data: bytes, bottom: int | None = None) -> Pixels:
    pixels = decode_jpeg(data, bottom)
    assert pixels is not None
    return pixels


UPRIGHT = {
    "colours whole": jpeg(subsampling="4:4:4"),
    "half": jpeg(subsampling="4:2:2"),
    "a quarter": jpeg(subsampling="4:2:0"),
    "restart markers": jpeg(restart_marker_blocks=3),
    "grey": jpeg("L"),
    "optimised": jpeg(optimize=True, quality=30),
    "something behind its end": jpeg() + bytes(100),
}
OTHERS = {
    "progressive": jpeg(progressive=True),
    "no JPEG": b"nonsense",
    "no size": b"\xff\xd8\xff\xd9",
    **{f"turned {orientation}": jpeg(orientation=orientation) for orientation in range(2, 9)},
}


@pytest.mark.parametrize("kind", UPRIGHT)
def test_rows_have_the_pixels_of_the_whole(kind: str) -> None:
    data = UPRIGHT[kind]
    whole = decoded(data)
    assert upright_rows(data)
    assert np.abs(whole.astype(int) - np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).max() <= 3
    for bottom in (1, 15, 16, 17, 31, 32, 100, 218, 219):
        rows = decoded(data, bottom)
        assert len(rows) >= bottom
        assert np.array_equal(rows[:bottom], whole[:bottom])
    assert len(decoded(data, 100)) < len(whole)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_are_decoded_whole(kind: str) -> None:
    assert not upright_rows(OTHERS[kind])


@pytest.mark.parametrize("orientation", range(1, 10))
def test_images_stand_upright(orientation: int) -> None:
    data = jpeg(orientation=orientation)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    pixels = decoded(data)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).max() <= 3


@pytest.fixture
def kinds(tmp_path: Path) -> Path:
    """An image folder with a JPEG of each kind, CMYK among them, and a PNG."""
    (tmp_path / "any").mkdir()
    readable = {kind: data for kind, data in (UPRIGHT | OTHERS).items() if not kind.startswith("no")}
    for number, data in enumerate([*readable.values(), jpeg("CMYK")]):
        (tmp_path / "any" / f"{number:02}.jpg").write_bytes(data)
    Image.fromarray(PHOTO).save(tmp_path / "any" / "other.png")
    return tmp_path


class Whole(FolderSamples):
    """Decodes each image in full before its box is known."""

    opened = Samples.opened


def test_the_torch_loader_gives_the_same_batch(kinds: Path) -> None:
    batches = []
    for samples in (FolderSamples(kinds, ["any"]), Whole(kinds, ["any"])):
        loader = make_train(
            Dataset(path=kinds, samples=samples, classes=("any",)),
            global_batch=len(samples.labels),
            augment=Augmentation(random_resized_crop=True, flip=True),
            resolution=64,
            loader="torch",
            workers=0,
        )
        batches.append(next(iter(loader))[0])
    assert torch.equal(*batches)


def test_nobody_warns(kinds: Path) -> None:
    samples = FolderSamples(kinds, ["any"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for index in range(len(samples.labels)):
            samples.image(index)


@pytest.mark.parametrize("size", [100, 700, 0.5, 0.9])
def test_one_cut_short_is_named_even_where_its_first_rows_are_there(size: float, tmp_path: Path) -> None:
    data = UPRIGHT["a quarter"]
    (tmp_path / "any").mkdir()
    (tmp_path / "any" / "short.jpg").write_bytes(data[: int(size if size > 1 else size * len(data))])
    with pytest.raises(ImageError, match=r"short\.jpg: cannot be read as an image"):
        FolderSamples(tmp_path, ["any"]).opened(0).rows(8)
