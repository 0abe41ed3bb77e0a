"""JPEGs whose own size is not what the table of their .beton file says: no loader hands out their pixels."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from anynet_dist.data.beton.build import build_beton
from anynet_dist.data.beton.format import METADATA_START, SAMPLE, BetonError, read_table
from anynet_dist.data.beton.jpeg_header import jpeg_size
from anynet_dist.data.beton.sidecar import sidecar_path
from anynet_dist.data.beton.verify import verify_deep
from anynet_dist.data.beton.writer import WriteOptions
from anynet_dist.data.decoding import decode
from anynet_dist.data.samples import ArraySamples, BetonSamples
from tests.data.loading import make_eval

LOADERS = ["torch", "device", *(["ffcv"] if importlib.util.find_spec("ffcv") else [])]
STAND_IN = 1


def jpeg(height: int, width: int, **options: object) -> bytes:
    buffer = io.BytesIO()
    photo = Image.fromarray(load_sample_image("china.jpg")[:height, :width])
    photo.save(buffer, "JPEG", **options)
    return buffer.getvalue()


SEGMENTS = {
    "baseline": jpeg(40, 56),
    "progressive": jpeg(40, 56, progressive=True),
    "optimised": jpeg(40, 56, optimize=True, quality=30),
    "restart markers": jpeg(40, 56, restart_marker_rows=1),
    "comment": jpeg(40, 56, comment=b"\xff\xc0\x00\x11\x08\x00\x01\x00\x01"),
    "padded markers": jpeg(40, 56).replace(b"\xff\xc0", b"\xff\xff\xff\xc0", 1),
    "empty segment": jpeg(40, 56).replace(b"\xff\xdb", b"\xff\xfe\x00\x02\xff\xdb", 1),
    "tables last": b"",
}
# The frame header before the quantisation tables: rare, and allowed.
_plain = SEGMENTS["baseline"]
_tables, _frame = _plain.index(b"\xff\xdb"), _plain.index(b"\xff\xc0")
_end = _frame + 2 + int.from_bytes(_plain[_frame + 2 : _frame + 4])
SEGMENTS["tables last"] = _plain[:_tables] + _plain[_frame:_end] + _plain[_tables:_frame] + _plain[_end:]


@pytest.mark.parametrize("kind", SEGMENTS)
def test_the_size_is_found_whatever_the_markers(kind: str) -> None:
    assert jpeg_size(SEGMENTS[kind]) == (40, 56)
    assert decode(SEGMENTS[kind]).shape == (40, 56, 3)  # so it is a JPEG


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8nonsense", bytes(1000), b"\xff" * 1000])
def test_what_states_no_size_has_none(data: bytes) -> None:
    assert jpeg_size(data) == (0, 0)


def with_table(folder: Path, height: int, width: int, data: bytes) -> Path:
    """A .beton file of three JPEGs, whose sample 1 is `data` and is said to be height x width."""
    path = folder / "misfit.beton"
    images = np.random.default_rng(0).integers(0, 256, (3, 80, 80, 3), dtype=np.uint8)
    options = WriteOptions(write_mode="jpg", quality=100)
    sidecar = build_beton(
        ArraySamples(images, np.arange(3)), path, classes=("a", "b", "c"), options=options, workers=1
    )
    table, content = read_table(path), bytearray(path.read_bytes())
    start, size = int(table.starts[STAND_IN]), int(table.sizes[STAND_IN])
    assert len(data) <= size
    content[start : start + size] = data.ljust(size, b"\0")
    samples = np.frombuffer(content, SAMPLE, len(table), METADATA_START)
    samples["image"]["height"][STAND_IN], samples["image"]["width"][STAND_IN] = height, width
    path.write_bytes(content)
    table = read_table(path)
    facts = {"tables_sha256": table.tables_sha256, "image_shape": table.constant_shape}
    sidecar_path(path).write_text(json.dumps({**sidecar.model_dump(mode="json"), **facts}))
    return path


def read_all(path: Path, loader: str) -> torch.Tensor:
    batches = make_eval(path, batch_size=3, resolution=80, crop_ratio=1, loader=loader, workers=1)
    try:
        return torch.cat([images for images, _ in batches])
    finally:
        batches.close()


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(("height", "width"), [(40, 56), (79, 80), (80, 79)])
@pytest.mark.parametrize("kind", ["baseline", "progressive"])
def test_a_jpeg_of_another_size_than_its_table_is_refused(
    loader: str, kind: str, height: int, width: int, tmp_path: Path
) -> None:
    path = with_table(tmp_path, 80, 80, jpeg(height, width, progressive=kind == "progressive"))
    message = f"sample 1: its JPEG has {width}x{height} pixels, but the table says 80x80"
    with pytest.raises(BetonError, match=message):
        read_all(path, loader)


@pytest.mark.parametrize("loader", [name for name in LOADERS if name != "device"])
def test_a_table_that_says_less_than_the_jpeg_is_refused(loader: str, tmp_path: Path) -> None:
    path = with_table(tmp_path, 20, 28, jpeg(40, 56))
    with pytest.raises(BetonError, match="sample 1: its JPEG has 56x40 pixels, but the table says 28x20"):
        read_all(path, loader)


def test_verify_says_which_sample_is_of_another_size(tmp_path: Path) -> None:
    path = with_table(tmp_path, 80, 80, jpeg(40, 56))
    with pytest.raises(BetonError, match=r"sample 1 \(class b\): its JPEG has 56x40 pixels, but the table"):
        verify_deep(path, workers=1)


@pytest.mark.slow
@pytest.mark.skipif("ffcv" not in LOADERS, reason="FFCV is not installed")
@pytest.mark.parametrize("kind", SEGMENTS)
def test_ffcv_still_reads_every_kind_of_jpeg(kind: str, tmp_path: Path) -> None:
    path = with_table(tmp_path, 40, 56, SEGMENTS[kind])
    ffcv, torchs = read_all(path, "ffcv")[STAND_IN], read_all(path, "torch")[STAND_IN]
    assert BetonSamples(read_table(path)).image(STAND_IN).shape == (40, 56, 3)
    assert (ffcv - torchs).abs().mean() < 16  # enlarged by other means, but the same photograph
