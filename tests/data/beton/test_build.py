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

from anynet_dist.data.beton.build import build_beton
from anynet_dist.data.beton.estimate import estimate
from anynet_dist.data.beton.format import JPEG, RAW, BetonError, read_table
from anynet_dist.data.beton.sidecar import open_beton, sidecar_path
from anynet_dist.data.beton.verify import verify_beton, verify_deep
from anynet_dist.data.beton.writer import WriteOptions
from anynet_dist.data.samples import ArraySamples, BetonSamples, FolderSamples
from anynet_dist.system.errors import UserError
from tests.conftest import PATIENCE

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


def test_images_that_are_not_rgb_are_stored_as_rgb(tmp_path: Path) -> None:
    root = tmp_path / "images"
    (root / "even").mkdir(parents=True)
    colour = Image.new("RGB", (16, 8), (200, 100, 50))
    turned = colour.getexif()
    turned[0x0112] = 6  # by a quarter
    colour.convert("L").save(root / "even" / "0_grey.jpg")
    colour.convert("CMYK").save(root / "even" / "1_cmyk.jpg")
    Image.fromarray(np.full((8, 16), 30_000, np.uint16)).save(root / "even" / "2_sixteen.png")
    colour.convert("P", palette=Image.Palette.ADAPTIVE).save(root / "even" / "3_palette.png")
    colour.save(root / "even" / "4_turned.jpg", exif=turned)
    build(FolderSamples(root, CLASSES), tmp_path / "a.beton")
    samples = BetonSamples(open_beton(tmp_path / "a.beton")[0])
    images = [samples.image(index).astype(int) for index in range(5)]
    assert [image.shape for image in images] == [(8, 16, 3)] * 4 + [(16, 8, 3)]
    grey = np.asarray(colour.convert("L"))[0, 0]
    expected = [(grey,) * 3, (200, 100, 50), (30_000 >> 8,) * 3, (200, 100, 50), (200, 100, 50)]
    for image, pixel in zip(images, expected, strict=True):
        assert np.abs(image - np.array(pixel, int)).max() <= 3


def bad_folder(root: Path) -> FolderSamples:
    """Five images, of which the first and the fourth are broken; 20x20 pixels, brighter one by one."""
    for name in CLASSES:
        (root / name).mkdir(parents=True)
    for number, path in enumerate(("even/0.png", "even/1.png", "even/2.png", "odd/3.png", "odd/4.png")):
        Image.new("RGB", (20, 20), (50 * number,) * 3).save(root / path)
    (root / "even" / "0.png").write_bytes(b"")
    (root / "odd" / "3.png").write_text("not an image")
    return FolderSamples(root, CLASSES)


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_images_can_be_left_out(tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture) -> None:
    sidecar = build(bad_folder(tmp_path / "images"), tmp_path / "a.beton", workers, on_bad_image="skip")
    assert (sidecar.num_samples, sidecar.class_counts, sidecar.on_bad_image) == (3, (2, 1), "skip")
    samples = BetonSamples(open_beton(tmp_path / "a.beton")[0])
    assert [int(samples.image(index).max()) for index in range(3)] == [50, 100, 200]
    assert samples.labels.tolist() == [0, 0, 1]
    assert verify_deep(tmp_path / "a.beton", workers=1) == sidecar
    assert [name in caplog.text for name in ("0.png", "1.png", "3.png")] == [True, False, True]
    assert "0.png" in sidecar.bad_images[0]
    assert "3.png" in sidecar.bad_images[1]


def test_bad_images_can_be_stored_as_black(tmp_path: Path) -> None:
    sidecar = build(bad_folder(tmp_path / "images"), tmp_path / "a.beton", on_bad_image="black")
    assert (sidecar.num_samples, sidecar.image_shape, len(sidecar.bad_images)) == (5, (20, 20), 2)
    samples = BetonSamples(open_beton(tmp_path / "a.beton")[0])
    assert [int(samples.image(index).max()) for index in range(5)] == [0, 50, 100, 0, 200]
    assert samples.labels.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("policy", ["skip", "black"])
def test_where_no_image_is_good_nothing_is_written(tmp_path: Path, policy: str) -> None:
    samples = bad_folder(tmp_path / "images")
    for path in (tmp_path / "images").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(BetonError, match="5 of 5 images"):
        build(samples, tmp_path / "out" / "a.beton", on_bad_image=policy)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("policy", ["stop", "skip", "black"])
def test_the_check_after_writing_accepts_what_was_written(tmp_path: Path, policy: Any) -> None:
    samples = bad_folder(tmp_path / "images")
    if policy == "stop":
        Image.new("RGB", (30, 20)).save(tmp_path / "images" / "even" / "0.png")
        Image.new("RGB", (30, 20)).save(tmp_path / "images" / "odd" / "3.png")
    options = WriteOptions(write_mode="proportion", on_bad_image=policy)
    path = tmp_path / "a.beton"
    build_beton(samples, path, classes=CLASSES, options=options, workers=1, check=True)
    assert path.exists()


class Flickering(ArraySamples):
    """Sample 7 is another image each time it is read."""

    reads = 0

    def image(self, index: int) -> Any:
        self.reads += index == 7
        return super().image(index) + np.uint8(self.reads if index == 7 else 0)


def test_the_check_after_writing_finds_a_source_that_changes(tiny: ArraySamples, tmp_path: Path) -> None:
    samples = Flickering(tiny.images, tiny.labels)
    with pytest.raises(BetonError, match=r"1 of its 10 images .*first: sample 7"):
        build_beton(samples, tmp_path / "a.beton", classes=CLASSES, workers=1, check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_too_small_is_refused_with_numbers(tmp_path: Path) -> None:
    samples = Endless(np.zeros((1, 1000, 1000, 3), np.uint8), np.zeros(2**31, np.int8))
    with pytest.raises(UserError, match=r"needs about .* GiB \(2,147,483,648 images.*GiB free"):
        build_beton(samples, tmp_path / "a.beton", classes=CLASSES, workers=1)
    assert list(tmp_path.iterdir()) == []


class Endless(ArraySamples):
    """As many images as there are labels, all the same."""

    def __init__(self, images: Any, labels: Any) -> None:
        self.images, self.labels = images, labels

    def image(self, index: int) -> Any:
        return self.images[0]


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from anynet_dist.data.beton.build import build_beton
from anynet_dist.data.samples import ArraySamples
from anynet_dist.system.errors import UserError

resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
samples = ArraySamples(np.zeros((500, 32, 32, 3), np.uint8), np.zeros(500, np.int64))
try:
    build_beton(samples, Path(sys.argv[1]) / "train.beton", classes=("a",), workers=int(sys.argv[2]))
except UserError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_write_that_the_system_refuses_ends_the_build_with_a_message(tmp_path: Path, workers: int) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), str(workers)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert f"{tmp_path / 'train.beton'}: not written: File too large" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_estimate_comes_close_to_the_size(photos: Path, tmp_path: Path) -> None:
    samples = FolderSamples(photos, ["china", "flower"])
    for mode in ("raw", "jpg"):
        options = WriteOptions(write_mode=mode, max_resolution=200)
        size = build(samples, tmp_path / f"{mode}.beton", write_mode=mode, max_resolution=200).size
        expected = estimate(samples, options, workers=1)
        assert (expected.num_samples, expected.sampled) == (24, 24)
        assert abs(expected.size / size - 1) < 0.02


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
        ({"on_bad_image": "skp"}, "did you mean 'skip'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        WriteOptions(**options)


SLOW_BUILD = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
from pathlib import Path
import numpy as np
from anynet_dist.data.beton.build import build_beton
from anynet_dist.data.samples import ArraySamples

class Slow(ArraySamples):
    def image(self, index):
        time.sleep(0.05)
        return super().image(index)

samples = Slow(np.zeros((2000, 4, 4, 3), np.uint8), np.zeros(2000, np.int64))
print("building", flush=True)
from anynet_dist.commands.data import _tidy_when_terminated
with _tidy_when_terminated():
    build_beton(samples, Path(sys.argv[1]) / "train.beton", classes=("a",), workers=2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_build_leaves_nothing_that_looks_whole(tmp_path: Path, stop: signal.Signals) -> None:
    process = start_build(tmp_path)
    children = wait_for_children(process.pid)
    process.send_signal(stop)
    process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert not (tmp_path / "train.beton").exists()
    assert not (tmp_path / "train.beton.json").exists()
    if stop != signal.SIGKILL:
        assert list(tmp_path.iterdir()) == []
    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


@pytest.mark.slow
def test_a_killed_worker_ends_the_build_with_a_message(tmp_path: Path) -> None:
    process = start_build(tmp_path)
    os.kill(wait_for_children(process.pid)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=PATIENCE)
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


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
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


def test_what_links_lead_to_is_replaced_and_fits_its_sidecar(tiny: ArraySamples, tmp_path: Path) -> None:
    disk, data = tmp_path / "disk", tmp_path / "data"
    build(tiny, disk / "a.beton", write_mode="raw")
    data.mkdir()
    for file in disk.iterdir():
        (data / file.name).symlink_to(file)
    with pytest.raises(UserError, match="exist already"):
        build(tiny, data / "a.beton", write_mode="jpg")
    options = WriteOptions(write_mode="jpg")
    built = build_beton(tiny, data / "a.beton", classes=CLASSES, options=options, workers=1, overwrite=True)
    assert verify_beton(disk / "a.beton") == verify_beton(data / "a.beton") == built
    assert all(file.is_symlink() for file in data.iterdir())
