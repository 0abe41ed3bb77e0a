import json
import multiprocessing
import os
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import SimpleNamespace

import pytest

from anynet_dist.data.beton.format import BetonError
from anynet_dist.data.beton.sidecar import sidecar_path
from anynet_dist.data.beton.staging import Staged, stage
from anynet_dist.data.beton.verify import verify_beton
from anynet_dist.system.errors import UserError
from tests.conftest import PATIENCE


@pytest.fixture
def source(blob_betons: Path) -> Path:
    return blob_betons / "train.beton"


def test_a_copy_is_whole_and_made_once(source: Path, tmp_path: Path) -> None:
    first = stage(source, tmp_path)
    assert first.seconds is not None
    assert first.path.read_bytes() == source.read_bytes()
    assert verify_beton(first.path) == verify_beton(source)
    assert first.path.with_name("train.beton.crc32").exists()
    assert stage(source, tmp_path) == Staged(first.path, first.size, None)


def test_a_source_that_changed_is_not_copied(source: Path, tmp_path: Path) -> None:
    """A flipped bit among the pixels, which the tables do not show."""
    changed = tmp_path / "source" / "train.beton"
    changed.parent.mkdir()
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    sidecar_path(changed).write_bytes(sidecar_path(source).read_bytes())
    with pytest.raises(BetonError, match="its checksum is not the one in its sidecar"):
        stage(changed, tmp_path / "disk")
    assert not [file for file in (tmp_path / "disk").rglob("*beton") if not file.name.startswith(".")]


def test_what_an_interrupted_copying_left_is_replaced(source: Path, tmp_path: Path) -> None:
    target = stage(source, tmp_path).path
    sidecar_path(target).unlink()  # it is written last
    target.write_bytes(b"half")
    leftover = target.with_name(f".{target.name}.1.partial")
    leftover.write_bytes(b"half")
    assert stage(source, tmp_path).seconds is not None
    assert target.read_bytes() == source.read_bytes()
    assert not leftover.exists()


def test_a_disk_that_is_too_small_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(UserError, match=r"needs .* MiB, but .* has 0\.0 MiB free"):
        stage(source, tmp_path)


def _stage(together: Barrier, source: Path, folder: Path, out: Path) -> None:
    together.wait()
    out.write_text(json.dumps(stage(source, folder).seconds))


def test_of_several_at_once_one_copies(source: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    together, folder = context.Barrier(4), tmp_path / "disk"
    outs = [tmp_path / str(number) for number in range(4)]
    processes = [context.Process(target=_stage, args=(together, source, folder, out)) for out in outs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    assert [out.read_text() == "null" for out in outs].count(False) == 1


def test_a_copy_takes_the_place_of_files_only(source: Path, tmp_path: Path) -> None:
    place = stage(source, tmp_path).path
    sidecar_path(place).unlink()
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(UserError, match=r"train\.beton is a named pipe, not a file"):
        stage(source, tmp_path)
    assert place.is_fifo()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written: \S*/file is not a folder"):
        stage(source, tmp_path / "file")
