from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anynet_dist.data.beton import build_beton, open_beton, sidecar_path, verify_beton
from anynet_dist.data.beton_format import JPEG, RAW, BetonError, read_table
from anynet_dist.data.beton_writer import WriteOptions
from anynet_dist.data.samples import ArraySamples, BetonSamples, FolderSamples
from anynet_dist.system.errors import UserError

CLASSES = ("even", "odd")


def build(samples: Any, path: Path, workers: int = 1, **options: Any) -> Any:
    return build_beton(samples, path, classes=CLASSES, options=WriteOptions(**options), workers=workers)


def test_sidecar_says_what_is_in_the_file(tiny: ArraySamples, tmp_path: Path) -> None:
    sidecar = build(tiny, tmp_path / "a.beton")
    assert sidecar == verify_beton(tmp_path / "a.beton")
    assert (sidecar.num_samples, sidecar.classes, sidecar.class_counts) == (10, CLASSES, (5, 5))
    assert (sidecar.image_shape, sidecar.max_shape, sidecar.write_mode) == ((8, 8), (8, 8), "raw")
    pixels = tiny.images.reshape(-1, 3) / 255
    np.testing.assert_allclose(sidecar.mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(sidecar.std, pixels.std(axis=0), rtol=1e-12)
    assert sidecar.size == (tmp_path / "a.beton").stat().st_size


def test_digits_mean_is_that_of_the_training_pixels(digits: Path) -> None:
    table, sidecar = open_beton(digits / "train.beton")
    samples = BetonSamples(table)
    pixels = np.stack([samples.image(i) for i in range(len(table))]).reshape(-1, 3) / 255
    np.testing.assert_allclose(sidecar.mean, pixels.mean(axis=0), rtol=1e-9)
    assert sidecar.num_samples == 1437
    assert min(sidecar.class_counts) > 130


def test_the_number_of_workers_makes_no_difference(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (100, 30, 40, 3), dtype=np.uint8)
    samples = ArraySamples(images, np.arange(100) % 2)
    one, two = (
        build(samples, tmp_path / f"{n}.beton", workers=n, write_mode="proportion", max_resolution=20)
        for n in (1, 2)
    )
    assert one.sha256 == two.sha256


def test_write_modes(photos: Path, tmp_path: Path) -> None:
    samples = FolderSamples(photos, ["china", "flower"])
    jpeg_share = {}
    for mode in ("raw", "jpg", "proportion"):
        build(samples, tmp_path / f"{mode}.beton", write_mode=mode)
        jpeg_share[mode] = (read_table(tmp_path / f"{mode}.beton").modes == JPEG).mean()
    assert jpeg_share["raw"] == 0
    assert jpeg_share["jpg"] == 1
    assert 0.2 < jpeg_share["proportion"] < 0.8
    raw, jpg = (BetonSamples(read_table(tmp_path / f"{mode}.beton")) for mode in ("raw", "jpg"))
    assert np.array_equal(raw.image(3), samples.image(3))
    assert 0 < np.abs(jpg.image(3).astype(int) - samples.image(3)).mean() < 4


def test_max_resolution_shrinks_the_longer_side_only_where_needed(photos: Path, tmp_path: Path) -> None:
    samples = FolderSamples(photos, ["china", "flower"])
    build(samples, tmp_path / "small.beton", max_resolution=200)
    table = read_table(tmp_path / "small.beton")
    for index in range(len(table)):
        height, width = samples.image(index).shape[:2]
        scale = min(1, 200 / max(height, width))
        assert abs(table.heights[index] - height * scale) <= 0.5
        assert abs(table.widths[index] - width * scale) <= 0.5
    assert table.modes[0] == RAW


def test_broken_images_are_all_named_and_no_file_is_left(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "images"
    (root / "even").mkdir(parents=True)
    (root / "odd").mkdir()
    Image.new("RGB", (20, 20)).save(root / "even" / "good.jpg")
    (root / "even" / "empty.jpg").write_bytes(b"")
    (root / "odd" / "cut.jpg").write_bytes((photos / "china" / "00.jpg").read_bytes()[:500])
    (root / "odd" / "text.png").write_text("not an image")
    out = tmp_path / "out"
    with pytest.raises(BetonError, match="3 of 4 images") as failure:
        build(FolderSamples(root, CLASSES), out / "train.beton", workers=2)
    assert all(name in str(failure.value) for name in ("empty.jpg", "cut.jpg", "text.png"))
    assert list(out.iterdir()) == []


def test_an_image_too_long_for_the_format_is_named_with_the_remedy(tmp_path: Path) -> None:
    samples = ArraySamples(np.zeros((1, 70_000, 1, 3), np.uint8), np.zeros(1, np.int64))
    with pytest.raises(BetonError, match=r"sample 0: 1x70000 pixels .* set a maximum resolution"):
        build(samples, tmp_path / "long.beton")
    assert build(samples, tmp_path / "long.beton", max_resolution=1000).image_shape == (1000, 1)


def test_large_images_need_no_options(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 1800, 1900, 3), dtype=np.uint8)
    build(ArraySamples(images, np.zeros(2, np.int64)), tmp_path / "large.beton")
    assert np.array_equal(BetonSamples(read_table(tmp_path / "large.beton")).image(1), images[1])


def test_labels_outside_the_classes_are_refused(tmp_path: Path) -> None:
    samples = ArraySamples(np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 2]))
    with pytest.raises(UserError, match="labels run from 0 to 2, but there are 2 classes"):
        build(samples, tmp_path / "a.beton")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"write_mode": "jpeg"}, "did you mean 'jpg'"),
        ({"max_resolution": 0}, "maximum resolution"),
        ({"quality": 101}, "quality"),
        ({"compress_probability": 1.5}, "probability"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        WriteOptions(**options)


SLOW_BUILD = """
import sys, time
from pathlib import Path
import numpy as np
from anynet_dist.data.beton import build_beton
from anynet_dist.data.samples import ArraySamples

class Slow(ArraySamples):
    def image(self, index):
        time.sleep(0.05)
        return super().image(index)

samples = Slow(np.zeros((2000, 4, 4, 3), np.uint8), np.zeros(2000, np.int64))
print("building", flush=True)
build_beton(samples, Path(sys.argv[1]) / "train.beton", classes=("a",), workers=2)
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_nothing_that_looks_whole(tmp_path: Path, stop: signal.Signals) -> None:
    process = start_build(tmp_path)
    children = wait_for_children(process.pid)
    process.send_signal(stop)
    process.communicate(timeout=20)
    assert process.returncode != 0
    assert not (tmp_path / "train.beton").exists()
    assert not (tmp_path / "train.beton.json").exists()
    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def test_a_killed_worker_ends_the_build_with_a_message(tmp_path: Path) -> None:
    process = start_build(tmp_path)
    os.kill(wait_for_children(process.pid)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=20)
    assert "a worker process was killed" in errors
    assert list(tmp_path.iterdir()) == []


def start_build(out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_BUILD, str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def wait_for_children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    found: list[int] = []

    def both_run() -> bool:
        found[:] = [int(child) for file in tasks.glob("*/children") for child in file.read_text().split()]
        return len(found) == 2

    wait_until(both_run)
    return found


def wait_until(condition: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_changed_pixel_is_found_by_verification(tiny_beton: Path) -> None:
    data = bytearray(tiny_beton.read_bytes())
    data[read_table(tiny_beton).starts[3]] ^= 1
    tiny_beton.write_bytes(data)
    with pytest.raises(BetonError, match="checksum"):
        verify_beton(tiny_beton)


def test_a_file_without_its_sidecar_is_refused(tiny_beton: Path) -> None:
    sidecar_path(tiny_beton).unlink()
    with pytest.raises(BetonError, match=r"tiny\.beton\.json is missing"):
        open_beton(tiny_beton)


def test_a_sidecar_of_another_file_is_refused(tiny_beton: Path) -> None:
    content = json.loads(sidecar_path(tiny_beton).read_text())
    sidecar_path(tiny_beton).write_text(json.dumps({**content, "num_samples": 9}))
    with pytest.raises(BetonError, match="num_samples is 10, the sidecar says 9"):
        open_beton(tiny_beton)
    sidecar_path(tiny_beton).write_text("{")
    with pytest.raises(BetonError, match="not a sidecar"):
        open_beton(tiny_beton)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BetonError, match=r"none\.beton: no such file"):
        open_beton(tmp_path / "none.beton")
