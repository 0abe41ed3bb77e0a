"""The part of a JPEG that a crop needs: same pixels, fewer bytes; where that cannot be, the JPEG itself."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

pytest.importorskip("ffcv", reason="FFCV is not installed")

from anynet_dist.data.beton import writer
from anynet_dist.data.beton.build import build_beton
from anynet_dist.data.beton.format import read_table
from anynet_dist.data.loaders.jpeg_part import jpeg_part
from anynet_dist.data.samples import ArraySamples, BetonSamples
from anynet_dist.data.transforms.augmentation import Augmentation
from tests.data.loading import make_eval, make_train

PHOTO = load_sample_image("china.jpg")
HEIGHT, WIDTH = 219, 352  # no whole number of rows of blocks
CROP = (70, 130, 150, 201)


def jpeg(mode: str = "RGB", height: int = HEIGHT, width: int = WIDTH, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PHOTO[:height, :width]).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def part_of(data: bytes, crop: tuple[int, int, int, int]) -> tuple[bytes, int, int, int, int]:
    part, height, width, top, left = jpeg_part(np.frombuffer(data, np.uint8).copy(), HEIGHT, WIDTH, *crop)
    return part.tobytes(), height, width, top, left


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("restarts", [{"restart_marker_blocks": 2}, {"restart_marker_rows": 1}])
def test_the_part_has_the_pixels_of_the_whole(subsampling: str, restarts: dict[str, Any]) -> None:
    data = jpeg(subsampling=subsampling, quality=90, **restarts)
    whole, random = pixels(data), np.random.default_rng(0)
    crops = [CROP, (0, 0, 1, 1), (HEIGHT - 1, WIDTH - 1, HEIGHT, WIDTH), (0, 0, HEIGHT, 40)]
    for _ in range(20):
        (top, bottom), (left, right) = (np.sort(random.integers(0, side, 2)) for side in (HEIGHT, WIDTH))
        crops.append((top, left, bottom + 1, right + 1))
    smaller = 0
    for top, left, bottom, right in crops:
        part, height, width, first_row, first_column = part_of(data, (top, left, bottom, right))
        decoded = pixels(part)
        assert decoded.shape == (height, width, 3)
        cut = decoded[top - first_row : bottom - first_row, left - first_column : right - first_column]
        assert np.array_equal(cut, whole[top:bottom, left:right])
        smaller += len(part) < len(data)
    assert smaller > len(crops) / 2


_PLAIN = jpeg(restart_marker_blocks=2)
_SCAN = _PLAIN.index(b"\xff\xda")
_SECOND = _PLAIN.index(b"\xff\xd1", _SCAN)
OTHERS = {
    "no markers": jpeg(),
    "markers that cut rows unevenly": jpeg(restart_marker_blocks=3),
    "markers after several rows": jpeg(restart_marker_rows=2),
    "progressive": jpeg(progressive=True, restart_marker_blocks=2),
    "grey": jpeg("L", restart_marker_blocks=2),
    "CMYK": jpeg("CMYK", restart_marker_blocks=2),
    "cut short": _PLAIN[: len(_PLAIN) // 2],
    "cut in its header": _PLAIN[: _SCAN + 3],
    "without its end": _PLAIN[:-2],
    "a marker missing": _PLAIN[:_SECOND] + _PLAIN[_SECOND + 2 :],
    "a marker out of turn": _PLAIN[:_SECOND] + b"\xff\xd5" + _PLAIN[_SECOND + 2 :],
    "another marker between": _PLAIN[:_SECOND] + b"\xff\xfe" + _PLAIN[_SECOND + 2 :],
    "more markers than its size needs": jpeg(height=HEIGHT + 40, restart_marker_blocks=2),
    "no JPEG": bytes(1000),
    "markers alone": b"\xff" * 1000,
    "nothing": b"",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_cannot_be_cut_is_left_whole(kind: str) -> None:
    assert part_of(OTHERS[kind], CROP) == (OTHERS[kind], HEIGHT, WIDTH, 0, 0)


def test_changed_bytes_never_lead_outside() -> None:
    random = np.random.default_rng(0)
    for _ in range(2000):
        data = np.frombuffer(_PLAIN, np.uint8).copy()
        places = random.integers(0, _SCAN + 20 if random.random() < 0.7 else len(data), 3)
        data[places] = random.choice([0, 1, 255, 0xC0, 0xD0, 0xDD, 0xDA, *random.integers(0, 256, 3)], 3)
        part, height, width, top, left = jpeg_part(data, HEIGHT, WIDTH, *CROP)
        assert top <= CROP[0]
        assert left <= CROP[1]
        assert top + height >= CROP[2]
        assert left + width >= CROP[3]
        assert len(part) <= len(data)


@pytest.fixture
def betons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Two files of the same JPEGs: with restart markers, and as they were written before there were any."""
    images = np.stack([PHOTO[y : y + HEIGHT, x : x + WIDTH] for y in (0, 97, 205) for x in (0, 99, 288)])
    samples, paths = ArraySamples(images, np.arange(9)), {}
    for name in ("new", "old"):
        if name == "old":
            monkeypatch.setattr(writer, "_restart_interval", lambda width: 0)
        paths[name] = tmp_path / f"{name}.beton"
        options = writer.WriteOptions(write_mode="jpg")
        build_beton(samples, paths[name], classes=tuple("abcdefghi"), options=options, workers=1)
    return paths


def test_files_with_and_without_markers_give_the_same_pixels(betons: dict[str, Path]) -> None:
    new, old = (BetonSamples(read_table(betons[name])) for name in ("new", "old"))
    for index in range(9):
        data = new.stored(index)
        assert len(part_of(data, CROP)[0]) < 0.5 * len(data)
        data = old.stored(index)
        assert part_of(data, CROP)[0] == data
    options = {
        "global_batch": 9,
        "augment": Augmentation(random_resized_crop=True, flip=True),
        "loader": "ffcv",
    }
    loaders = [make_train(betons[name], resolution=64, **options) for name in ("new", "old")]
    for epoch in range(3):
        for loader in loaders:
            loader.set_epoch(epoch)
        (images, _), (expected, _) = (next(iter(loader)) for loader in loaders)
        assert torch.equal(images, expected)
    options = {"batch_size": 9, "resolution": 64, "crop_ratio": 0.5, "loader": "ffcv"}
    (images, _), (expected, _) = (next(iter(make_eval(betons[name], **options))) for name in ("new", "old"))
    assert torch.equal(images, expected)
