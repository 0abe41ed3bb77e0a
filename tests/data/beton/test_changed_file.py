"""A .beton file that changes or vanishes while a loader reads it: an error that says so, no bus error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from anynet_dist.data.beton.file import BetonFile
from anynet_dist.data.beton.format import BetonError, read_table
from anynet_dist.data.loaders.factory import ffcv_installed
from tests.conftest import PATIENCE

NAMES = ["torch", "ffcv"] if ffcv_installed() else ["torch"]
READ = """
import sys
import torch
from anynet_dist.data.loaders.base import Placement
from anynet_dist.data.loaders.factory import eval_loader
from anynet_dist.system.errors import UserError

path, name = sys.argv[1:]
loader = eval_loader(path, 1, resolution=32, crop_ratio=1.0, placement=Placement(workers=1), loader=name)
try:
    for epoch in range(1000):
        for number, _ in enumerate(loader):
            if epoch == 0 and number == 2:
                print("reading", flush=True)
except UserError as error:
    print(error)
finally:
    loader.close()
"""


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def emptied_and_written_anew(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[::-1])


def replaced(path: Path) -> None:
    other = path.with_name("other.beton")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def removed(path: Path) -> None:
    path.unlink()


CHANGES = {
    cut_short: "bytes and has|was written to",
    emptied_and_written_anew: "bytes and has|was written to",
    replaced: "was removed or replaced",
    removed: "was removed or replaced",
}


@pytest.fixture
def copy(photo_betons: Path, tmp_path: Path) -> Path:
    """raw.beton with what belongs to it, to be changed."""
    for file in photo_betons.glob("raw.beton*"):
        shutil.copy(file, tmp_path)
    return tmp_path / "raw.beton"


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_noticed_by_the_next_read(change, copy: Path) -> None:  # type: ignore[no-untyped-def]
    file = BetonFile(read_table(copy))
    file.read(0)
    change(copy)
    with pytest.raises(BetonError, match=rf"raw\.beton: changed while in use: it .*({CHANGES[change]})"):
        file.read(0)


def test_a_file_that_is_gone_before_it_is_read_is_named(copy: Path) -> None:
    file = BetonFile(read_table(copy))
    copy.unlink()
    with pytest.raises(BetonError, match=r"raw\.beton: cannot be read any more: No such file"):
        file.read(0)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", [cut_short, removed], ids=lambda change: change.__name__)
def test_a_loader_ends_with_an_error(change, name: str, copy: Path) -> None:  # type: ignore[no-untyped-def]
    command = [sys.executable, "-c", READ, str(copy), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        change(copy)
        shown, complaints = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, complaints
    assert "raw.beton: changed while in use" in shown
    assert "Traceback" not in shown
