from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anynet_dist.data.decoding import ImageError, decode
from anynet_dist.data.samples import FolderSamples, class_names
from anynet_dist.system.errors import UserError

COLOUR = (200, 100, 50)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_rgb_is_read_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(decode(encoded(Image.fromarray(pixels))), pixels)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("L", "PNG"),
        ("P", "PNG"),
        ("RGBA", "PNG"),
        ("LA", "PNG"),
        ("1", "PNG"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
    ],
)
def test_every_mode_becomes_rgb(mode: str, kind: str) -> None:
    source = Image.new("RGB", (16, 8), COLOUR).convert(mode)
    image = decode(encoded(source, kind))
    assert image.shape == (8, 16, 3)
    assert image.dtype == np.uint8
    expected = np.asarray(source.convert("RGB"))
    assert np.abs(image.astype(int) - expected).max() <= 3


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    grey = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024).astype(np.uint16)
    image = decode(encoded(Image.fromarray(grey)))
    assert np.array_equal(image[..., 0], (grey >> 8).astype(np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_exif_orientation_is_applied(kind: str) -> None:
    image = Image.new("RGB", (16, 8), COLOUR)
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    assert decode(encoded(image, kind, exif=exif)).shape == (16, 8, 3)


def test_jpegs_decode_as_pillow_decodes_them(photos: Path) -> None:
    for path in sorted(photos.rglob("*.jpg"))[::6]:
        ours, pillow = decode(path.read_bytes()).astype(int), np.asarray(Image.open(path)).astype(int)
        assert np.abs(ours - pillow).max() <= 3
        assert np.abs(ours - pillow).mean() < 0.1


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "bad.jpg").write_bytes(b"\xff\xd8nonsense")
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        FolderSamples(tmp_path, ["cat"]).image(0)


def test_folders_are_read_in_alphabetical_order(photos: Path) -> None:
    assert class_names(photos) == ["china", "flower"]
    samples = FolderSamples(photos, ["china", "flower"])
    assert samples.labels.tolist() == [0] * 12 + [1] * 12
    assert samples.path(13) == photos / "flower" / "01.jpg"


def test_a_missing_or_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        class_names(tmp_path / "none")
    with pytest.raises(UserError, match="no class folders"):
        class_names(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match="no images"):
        FolderSamples(tmp_path, ["cat"])
