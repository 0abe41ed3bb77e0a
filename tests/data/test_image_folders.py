"""Image folders as people have them: helper files, links, types, and pixels of 32 bits."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anynet_dist.data import image_folders
from anynet_dist.data.beton.build import build_beton
from anynet_dist.data.beton.writer import WriteOptions
from anynet_dist.data.dataset import open_dataset
from anynet_dist.data.decoding import ImageError, decode
from anynet_dist.data.image_folders import IMAGE_SUFFIXES, is_helper
from anynet_dist.data.samples import FolderSamples, class_names
from anynet_dist.inference import predict
from anynet_dist.system.errors import UserError

HELPERS = (
    *(".DS_Store", "._cat", ".ipynb_checkpoints", ".Trash-1000", "@eaDir", "#recycle", "__MACOSX"),
    *("Thumbs.db", "THUMBS.DB", "desktop.ini", "lost+found", "$RECYCLE.BIN", "System Volume Information"),
)


def put(path: Path, colour: object = (200, 100, 50), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 8), colour).save(path)  # type: ignore[arg-type]
    return path


def names(root: Path, *classes: str) -> list[str]:
    samples = FolderSamples(root, classes)
    return [str(samples.path(index).relative_to(root)) for index in range(len(samples.labels))]


@pytest.mark.parametrize("helper", HELPERS)
def test_helper_files_and_folders_are_neither_images_nor_classes(helper: str, tmp_path: Path) -> None:
    put(tmp_path / "cat" / "1.png")
    put(tmp_path / "cat" / helper / "2.png")
    put(tmp_path / helper / "3.png")
    (tmp_path / "cat" / f"._{helper}.png").write_bytes(b"of a system")
    assert class_names(tmp_path) == ["cat"]
    assert names(tmp_path, "cat") == ["cat/1.png"]
    assert predict.find_images([tmp_path]) == [tmp_path / "cat" / "1.png"]


def test_usual_names_are_no_helpers() -> None:
    assert not any(map(is_helper, ("cat", "1.jpg", "a~b.png", "#1", "@home", "$5", "_unknown_")))


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "deep" / "2.png")
    root = tmp_path / "root"
    put(root / "cat" / "1.png")
    (root / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "cat" / "more" / "deep" / "back").symlink_to(root / "cat")
    (root / "dog").symlink_to(tmp_path / "elsewhere" / "deep")
    (root / "cat" / "itself").symlink_to(root / "cat" / "itself")
    assert class_names(root) == ["cat", "dog"]
    assert names(root, "cat") == ["cat/1.png", "cat/more/deep/2.png"]
    assert set(predict.find_images([root / "cat"])) == {root / name for name in names(root, "cat")}


def test_what_is_left_out_is_counted_by_type_and_class(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path / "cat" / "1.png")
    for name in ("cat/notes.txt", "dog/1.psd", "dog/2.PSD", "dog/list"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with caplog.at_level(logging.WARNING, "anynet_dist"):
        samples = FolderSamples(tmp_path, ["cat", "dog", "empty"])
    assert samples.labels.tolist() == [0]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: 4 files left out for their type (2 .psd, 1 .txt, 1 without suffix), in cat (1 .txt),"
        " dog (2 .psd, 1 without suffix)",
        f"{tmp_path}: classes without an image: dog (3 files of other types), empty (0 files of other types)",
    ]
    (tmp_path / "cat" / "1.png").unlink()
    with pytest.raises(UserError, match=r"no images in its class folders .*; 4 files left out for their"):
        FolderSamples(tmp_path, ["cat", "dog", "empty"])


def test_a_type_that_can_be_decoded_with_another_package_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path / "cat" / "1.png")
    (tmp_path / "cat" / "2.heic").write_bytes(b"")
    if image_folders.heic_installed():
        assert len(FolderSamples(tmp_path, ["cat"]).labels) == 2
    else:
        FolderSamples(tmp_path, ["cat"])
        assert "HEIC images need the package pillow-heif: 'pip install pillow-heif'" in caplog.text


def test_the_images_that_count_are_those_that_can_be_decoded(tmp_path: Path) -> None:
    saved = {".jfif": "JPEG", ".jpe": "JPEG", ".apng": "PNG", ".dib": "DIB", ".j2k": "JPEG2000"}
    for suffix in sorted(IMAGE_SUFFIXES - image_folders.HEIC_SUFFIXES):
        (tmp_path / "any").mkdir(exist_ok=True)
        colour = Image.new("1" if suffix == ".pbm" else "RGB", (16, 16), "white")
        colour.save(tmp_path / "any" / f"1{suffix}", saved.get(suffix))
    samples = FolderSamples(tmp_path, ["any"])
    assert len(samples.labels) >= 16
    for index in range(len(samples.labels)):
        assert samples.image(index).shape == (16, 16, 3), samples.name(index)
        assert samples.image(index).min() >= 250, samples.name(index)


def test_of_a_gif_it_is_the_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 0, 250))]
    (tmp_path / "cat").mkdir()
    frames[0].save(tmp_path / "cat" / "a.gif", save_all=True, append_images=frames[1:])
    assert FolderSamples(tmp_path, ["cat"]).image(0)[0, 0].tolist() == [250, 0, 0]


def tiff(values: object, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.array(values, kind)).save(buffer, "TIFF")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("f4", [[0, 0.25, 0.5, 1]], [0, 64, 128, 255]),
        ("f4", [[0, 99.6, 128, 255]], [0, 100, 128, 255]),
        ("f4", [[0, 256, 32768, 65535]], [0, 1, 128, 255]),
        ("i4", [[0, 1, 128, 255]], [0, 1, 128, 255]),
        ("i4", [[0, 256, 32768, 65535]], [0, 1, 128, 255]),
        ("u2", [[0, 1, 256, 65535]], [0, 0, 1, 255]),
        ("f4", [[0, 0, 0, 0]], [0, 0, 0, 0]),
    ],
)
def test_wide_pixels_are_converted_by_their_range(
    kind: str, values: list[list[float]], expected: list[int]
) -> None:
    assert decode(tiff(values, kind))[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("f4", [[-1, 1]], r"float32 values lie in -1\.\.1, not in 0\.\.65535; convert it to 8 or 16 bits"),
        ("f4", [[0, 1e6]], r"values lie in 0\.\.1e\+06, not in"),
        ("f4", [[0, float("nan")]], r"values lie in nan\.\.nan, not in"),
        ("i4", [[0, 70000]], r"int32 values lie in 0\.\.70000, not in"),
        ("f4", [[0, 1.5]], r"values lie in 0\.\.1\.5: it is not certain which value is white"),
        ("i4", [[0, 1]], r"values lie in 0\.\.1: it is not certain"),
    ],
)
def test_ranges_that_are_uncertain_are_refused_by_name(
    kind: str, values: list[list[float]], message: str, tmp_path: Path
) -> None:
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / "1.tif").write_bytes(tiff(values, kind))
    with pytest.raises(ImageError, match=rf"cell/1\.tif: cannot be read as an image: its .*{message}"):
        FolderSamples(tmp_path, ["cell"]).image(0)


def test_all_images_of_a_folder_have_one_scale(tmp_path: Path) -> None:
    """A dark image of 0..255 stays dark, and is not taken for one of 0..1; one of 0..1 is told from it."""
    (tmp_path / "cell").mkdir()
    for name, values in (("a", [[0, 10]]), ("b", [[0, 255]]), ("c", [[0, 0.5]])):
        (tmp_path / "cell" / f"{name}.tif").write_bytes(tiff(values, "f4"))
    samples = FolderSamples(tmp_path, ["cell"])
    assert samples.image(0)[0, :, 0].tolist() == [0, 10]
    assert samples.image(1)[0, :, 0].tolist() == [0, 255]
    with pytest.raises(
        ImageError, match=r"lie in 0\.\.0\.5, those of other images of its folder in 0\.\.255"
    ):
        samples.image(2)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n nonsense"),
        ("a.jpg", b"\xff\xd8 nonsense"),
        ("a.tif", b"II*\0\x08\0\0\0\x01\0\x00\x01"),
        ("a.gif", b"GIF89a"),
        ("a.bmp", b"BM" + bytes(60)),
        ("a.webp", b"RIFF\x10\0\0\0WEBPVP8 "),
        ("a.jpg", b""),
    ],
)
def test_a_broken_image_gives_the_same_sentence_each_time_without_addresses(
    name: str, content: bytes, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    put(root / "cat" / "good.png")
    (root / "cat" / name).write_bytes(content)
    samples = FolderSamples(root, ["cat"])
    told = []
    for out in ("one", "two"):
        build_beton(
            samples,
            tmp_path / out / "train.beton",
            classes=("cat",),
            options=WriteOptions(on_bad_image="skip"),
            workers=1,
        )
        told.append((tmp_path / out / "train.beton.json").read_bytes())
    assert told[0] == told[1]
    assert b" at 0x" not in told[0]
    with pytest.raises(UserError, match=rf"cat/{name}: cannot be read as an image: [^\n]+$"):
        open_dataset(root)


def test_names_that_are_no_utf8_become_readable(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path) + b"/root"
    for name, readable in ((b"caf\xe9", "caf\\xe9"), ("café".encode(), "café")):
        put(Path(os.fsdecode(root + b"/" + name + b"/\xff.png")))
        assert readable in class_names(Path(os.fsdecode(root)))
    data = open_dataset(os.fsdecode(root))
    assert data.classes == ("caf\\xe9", "café")
    assert data.samples.image(0).shape == (8, 8, 3)
    assert data.samples.name(0) == f"{tmp_path}/root/caf\\xe9/\\xff.png"
