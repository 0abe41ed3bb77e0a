from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from anynet_dist.data.beton.build import build_beton
from anynet_dist.data.beton.format import BetonError, read_table
from anynet_dist.data.beton.sidecar import checksums_path, open_beton, sidecar_path
from anynet_dist.data.beton.verify import verify_beton, verify_deep
from anynet_dist.data.beton.writer import WriteOptions
from anynet_dist.data.decoding import ImageError
from anynet_dist.data.samples import ArraySamples


def change(path: Path, *places: int) -> None:
    data = bytearray(path.read_bytes())
    for place in places:
        data[place] ^= 1
    path.write_bytes(data)


def test_a_whole_file_passes(tiny_beton: Path, photo_betons: Path) -> None:
    assert verify_deep(tiny_beton, workers=1) == verify_beton(tiny_beton)
    assert verify_deep(photo_betons / "jpg.beton", workers=2).num_samples == 24


def test_every_damaged_sample_is_named_with_file_and_class(tiny_beton: Path) -> None:
    starts = read_table(tiny_beton).starts
    change(tiny_beton, starts[3], starts[8] + 5)
    open_beton(tiny_beton)  # the tables are as they were
    with pytest.raises(BetonError, match="2 of 10 images are damaged") as failure:
        verify_deep(tiny_beton, workers=1)
    assert f"{tiny_beton}: sample 3 (class odd): its bytes changed" in str(failure.value)
    assert f"{tiny_beton}: sample 8 (class even): its bytes changed" in str(failure.value)


def test_a_jpeg_that_cannot_be_decoded_is_named(photo_betons: Path, tmp_path: Path) -> None:
    path = tmp_path / "jpg.beton"
    for beside in (lambda file: file, sidecar_path, checksums_path):
        beside(path).write_bytes(beside(photo_betons / "jpg.beton").read_bytes())
    change(path, *range(read_table(path).starts[20], read_table(path).starts[20] + 20))
    with pytest.raises(BetonError, match=r"sample 20 \(class flower\): cannot be decoded"):
        verify_deep(path, workers=2)


class FirstIsBad(ArraySamples):
    """Left out, the first sample leaves unused bytes between the tables and the images."""

    def image(self, index: int) -> Any:
        if index == 0:
            raise ImageError("bad")
        return super().image(index)


def test_a_change_outside_the_images_is_found_too(tiny: ArraySamples, tmp_path: Path) -> None:
    path, options = tmp_path / "a.beton", WriteOptions(on_bad_image="skip")
    build_beton(FirstIsBad(tiny.images, tiny.labels), path, classes=("a", "b"), options=options, workers=1)
    verify_deep(path, workers=1)
    change(path, read_table(path).starts[0] - 1)
    with pytest.raises(BetonError, match="checksum"):
        verify_deep(path, workers=1)


def test_changed_checksums_are_refused(tiny_beton: Path) -> None:
    change(checksums_path(tiny_beton), 4)
    with pytest.raises(BetonError, match=r"tiny\.beton\.crc32: is missing or changed"):
        verify_deep(tiny_beton, workers=1)
    checksums_path(tiny_beton).unlink()
    with pytest.raises(BetonError, match=r"tiny\.beton\.crc32: is missing or changed"):
        verify_deep(tiny_beton, workers=1)


def test_a_file_built_without_checksums_is_decoded(
    tiny_beton: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = json.loads(sidecar_path(tiny_beton).read_text())
    for key in ("checksums_sha256", "on_bad_image", "bad_images"):
        del content[key]
    sidecar_path(tiny_beton).write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        verify_deep(tiny_beton, workers=1)
    assert "can only be decoded" in caplog.text
