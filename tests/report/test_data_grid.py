"""`anynet data show`: pictures of a data set, plain and augmented."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anynet_dist.cli import main
from anynet_dist.data.dataset import open_dataset
from anynet_dist.data.loaders.base import Placement
from anynet_dist.data.loaders.factory import train_loader
from anynet_dist.data.transforms.augmentation import Augmentation
from anynet_dist.data.transforms.normalisation import Normalisation
from anynet_dist.report.data_grid import chosen
from tests.report.conftest import config

MEAN, STD = (0.25, 0.25, 0.25), (0.5, 0.5, 0.5)


def cell(picture: Path, row: int, column: int, lines: int) -> np.ndarray:
    """The image at a place of a grid of images of 16 pixels, which are shown six times as large."""
    with Image.open(picture) as grid:
        pixels = np.asarray(grid.convert("RGB"))
    y, x = 6 + row * (102 + 15 * lines), 6 + column * 102
    return pixels[y : y + 96 : 6, x : x + 96 : 6]


@pytest.mark.parametrize("kind", ["folder", "beton"])
def test_stored_images_are_shown_as_they_are(
    kind: str, blobs: Path, blob_betons: Path, tmp_path: Path
) -> None:
    source, out = blobs / "val" if kind == "folder" else blob_betons / "val.beton", tmp_path / "grid.png"
    assert main(["data", "show", str(source), "--out", str(out), "--count", "12"]) == 0
    data = open_dataset(source)
    shown = chosen(data, 12, seed=0)
    assert np.bincount(data.samples.labels[shown]).tolist() == [4, 4, 4]
    for place, index in enumerate(shown):
        np.testing.assert_array_equal(cell(out, place // 8, place % 8, 2), data.samples.image(int(index)))


def test_augmented_images_are_those_that_a_run_sees(blobs: Path, tmp_path: Path) -> None:
    augment = {"flip": True, "translate": 3, "cutout": 4}
    options = {"augment": augment, "mean": list(MEAN), "std": list(STD), "loader": "torch"}
    path, out = config(tmp_path, blobs, data=options), tmp_path / "grid.png"
    words = ["--augment", "--config", str(path), "--out", str(out), "--count", "3"]
    assert main(["data", "show", str(blobs / "train"), *words]) == 0
    data = open_dataset(blobs / "train")
    loader = train_loader(
        data,
        24,
        Augmentation(flip=True, translate=3, cutout=4),
        resolution=16,
        normalisation=Normalisation(MEAN, STD),
        placement=Placement(workers=0),
        loader="torch",
    )
    loader.set_epoch(1)
    order = loader.order()
    images = np.concatenate([batch.permute(0, 2, 3, 1).numpy() for batch, _ in loader])
    for row, index in enumerate(chosen(data, 3, seed=0)):
        np.testing.assert_array_equal(cell(out, row, 0, 1), data.samples.image(int(index)))
        seen = images[np.flatnonzero(order == index)[0]] * STD + MEAN
        np.testing.assert_array_equal(cell(out, row, 2, 1), (seen * 255).round().clip(0, 255))


def test_what_cannot_be_shown_is_refused(
    blobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(blobs / "val")
    assert main(["data", "show", source, "--augment"]) == 2
    assert "--augment and --config CONFIG belong together" in capsys.readouterr().err
    assert main(["data", "show", source, "--count", "0"]) == 2
    assert "--count must be at least 1" in capsys.readouterr().err
    assert main(["data", "show", source, "--out", str(tmp_path / "grid.txt")]) == 2
    assert "grid.txt: pictures are .png, .jpg or .jpeg files" in capsys.readouterr().err
