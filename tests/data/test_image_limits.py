"""Images that would exhaust the memory, and things in image folders that are no files: named and refused."""

from __future__ import annotations

import io
import os
import socket
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anynet_dist.data.beton.build import build_beton
from anynet_dist.data.beton.format import BetonError
from anynet_dist.data.beton.sidecar import checksums_path, open_beton, sidecar_path
from anynet_dist.data.beton.writer import WriteOptions
from anynet_dist.data.dataset import open_dataset
from anynet_dist.data.decoding import ImageError, decode, pixel_limit
from anynet_dist.data.samples import ArraySamples, FolderSamples
from anynet_dist.inference.predict import find_images
from anynet_dist.system.errors import UserError
from tests.data.loading import make_eval

SIDE = 20_000


def small(kind: str) -> bytearray:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels), Image.fromarray(pixels[::-1])]
    frames = {"save_all": True, "append_images": images[1:]} if kind == "WEBP" else {}
    images[0].save(buffer, kind, **frames)
    return bytearray(buffer.getvalue())


def jpeg() -> bytes:
    data = small("JPEG")
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", SIDE, SIDE)
    return bytes(data)


def png() -> bytes:
    data = small("PNG")
    data[16:24] = struct.pack(">II", SIDE, SIDE)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def tiff() -> bytes:
    data = small("TIFF")
    for tag in (256, 257):
        place = data.index(struct.pack("<HHI", tag, 4, 1))
        data[place + 8 : place + 12] = struct.pack("<I", SIDE)
    return bytes(data)


def bmp() -> bytes:
    data = small("BMP")
    data[18:26] = struct.pack("<ii", SIDE, SIDE)
    return bytes(data)


def webp() -> bytes:
    data = small("WEBP")
    place = data.index(b"VP8X")
    data[place + 12 : place + 18] = 2 * struct.pack("<I", SIDE - 1)[:3]
    return bytes(data)


BOMBS: dict[str, Callable[[], bytes]] = {
    "jpg": jpeg,
    "png": png,
    "tiff": tiff,
    "bmp": bmp,
    "webp": webp,
    "ppm": lambda: b"P6 %d %d 255\n" % (SIDE, SIDE),
}


@pytest.fixture(params=BOMBS)
def bombs(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An image folder of a good image and one that states 400 million pixels in few bytes."""
    folder = tmp_path / "bombs" / "any"
    folder.mkdir(parents=True)
    (folder / f"bomb.{request.param}").write_bytes(BOMBS[request.param]())
    (folder / "good.png").write_bytes(small("PNG"))
    return folder.parent


TOO_MANY = r"bomb\.\w+: cannot be read as an image: Image size \(400000000 pixels\) exceeds limit of \d+"


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(bombs: Path) -> None:
    with pytest.raises(ImageError, match=f"{TOO_MANY} pixels; make it smaller, or raise the limit"):
        FolderSamples(bombs, ["any"]).image(0)
    with pytest.raises(ImageError, match=TOO_MANY):
        open_dataset(bombs)


@pytest.mark.parametrize("loader", ["torch", "device"])
def test_loaders_refuse_it(loader: str, bombs: Path) -> None:
    bomb, good = sorted((bombs / "any").iterdir())
    content = bomb.read_bytes()
    bomb.write_bytes(good.read_bytes())
    data = open_dataset(bombs)
    bomb.write_bytes(content)  # after the folder was opened, so that only reading can find it
    with pytest.raises(ImageError, match=TOO_MANY):
        list(make_eval(data, batch_size=2, resolution=16, loader=loader, workers=1))


def test_for_a_build_it_is_a_bad_image(bombs: Path, tmp_path: Path) -> None:
    samples = FolderSamples(bombs, ["any"])
    with pytest.raises(BetonError, match=TOO_MANY):
        build_beton(samples, tmp_path / "a.beton", classes=("any",), workers=1)
    for policy, stored in (("skip", 1), ("black", 2)):
        options = WriteOptions(on_bad_image=policy)  # type: ignore[arg-type]
        sidecar = build_beton(
            samples, tmp_path / "a.beton", classes=("any",), options=options, workers=1, overwrite=True
        )
        assert (sidecar.num_samples, len(sidecar.bad_images)) == (stored, 1)


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the limit by the environment, until the test ends."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    return lambda value: monkeypatch.setenv("ANYNET_MAX_IMAGE_PIXELS", value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_environment_sets_the_limit_and_nobody_warns_below_it(
    kind: str, limit: Callable[[str], None]
) -> None:
    data = bytes(small(kind))
    limit("254")
    with pytest.raises(ImageError, match=r"\(256 pixels\) exceeds limit of 254 pixels"):
        decode(data)
    limit("256")  # Pillow would warn from 128 on
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data).shape == (16, 16, 3)


def test_a_limit_that_is_none_is_refused(limit: Callable[[str], None]) -> None:
    limit("lots")
    with pytest.raises(UserError, match=r"ANYNET_MAX_IMAGE_PIXELS must be an integer \(pixels\)"):
        pixel_limit()


def test_the_limit_lets_photographs_through() -> None:
    assert pixel_limit() > 170_000_000


def test_a_beton_file_of_larger_images_is_refused(
    tiny_beton: Path, limit: Callable[[str], None], tmp_path: Path
) -> None:
    limit("62")
    with pytest.raises(BetonError, match=r"sample 0: 8x8 pixels exceed the limit of 62"):
        open_beton(tiny_beton)


def test_a_file_larger_than_an_image_may_be_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "any").mkdir()
    with (tmp_path / "any" / "sparse.jpg").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ImageError, match=r"sparse\.jpg: .*has 1,099,511,627,776 bytes, more than the"):
        FolderSamples(tmp_path, ["any"]).image(0)


@pytest.fixture(params=["a named pipe", "a socket", "a device"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """An image folder whose only image is no file, and what it is."""
    path = tmp_path / "odd" / "any" / "x.jpg"
    path.parent.mkdir(parents=True)
    server = socket.socket(socket.AF_UNIX)
    if request.param == "a named pipe":
        os.mkfifo(path)
    elif request.param == "a socket":
        server.bind(str(path))
    else:
        path.symlink_to("/dev/zero")
    with server:
        yield path.parent.parent, request.param


def test_what_is_no_file_is_named_instead_of_waited_for(
    odd: tuple[Path, str],
) -> None:
    folder, kind = odd
    with pytest.raises(UserError, match=rf"x\.jpg: is {kind}, not a file"):
        open_dataset(folder)
    found = kind if kind != "a socket" else "No such device"  # which the system refuses by itself
    with pytest.raises(ImageError, match=rf"x\.jpg: cannot be read as an image: .*{found}"):
        FolderSamples(folder, ["any"]).image(0)


def test_a_folder_that_is_called_like_an_image_is_looked_into(tmp_path: Path) -> None:
    (tmp_path / "any" / "x.jpg").mkdir(parents=True)
    (tmp_path / "any" / "x.jpg" / "y.png").write_bytes(small("PNG"))
    assert FolderSamples(tmp_path, ["any"]).path(0) == tmp_path / "any" / "x.jpg" / "y.png"
    assert find_images([tmp_path]) == [tmp_path / "any" / "x.jpg" / "y.png"]


@pytest.mark.parametrize("which", [lambda path: path, sidecar_path, checksums_path])
def test_a_beton_file_or_a_file_beside_it_that_is_a_pipe_is_refused(
    which: Callable[[Path], Path], tiny: ArraySamples, tiny_beton: Path
) -> None:
    which(tiny_beton).unlink()
    os.mkfifo(which(tiny_beton))
    with pytest.raises(UserError, match=rf"{which(tiny_beton).name}: is a named pipe, not a file"):
        open_beton(tiny_beton)
