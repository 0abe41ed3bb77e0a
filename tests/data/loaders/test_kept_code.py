"""Whatever happens to the compiled code on disk, a run goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not find_spec("ffcv"), reason="FFCV is not installed")]

# argv: a .beton file. Reads it; prints how many images, and whether compiled code was found on disk.
READ = """
import logging, sys
from anynet_dist.data.loaders import ffcv_kernel
from anynet_dist.data.loaders.base import Placement
from anynet_dist.data.loaders.factory import eval_loader

logging.basicConfig(format="%(message)s", stream=sys.stdout)
loader = eval_loader(sys.argv[1], batch_size=200, placement=Placement(workers=1), loader="ffcv")
count = sum(len(labels) for _, labels in loader)
loader.close()
print(count, "images;", "compiled" if ffcv_kernel.decode_batch.stats.cache_misses else "found")
"""


@pytest.fixture
def read(digits: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Read the digits in a process of its own, which keeps compiled code in tmp_path/code; its output."""

    def run(setup: str = "", folder: str = "code") -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", setup + READ, str(digits / "val.beton")],
            capture_output=True,
            text=True,
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / folder)},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        # On a busy machine the loader says that it waits.
        return [line for line in done.stdout.splitlines() if not line.startswith("waiting for ")]

    return run


def files(tmp_path: Path, suffix: str) -> list[Path]:
    return sorted((tmp_path / "code").rglob(f"*.{suffix}"))


def flip_a_byte(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


def test_broken_files_are_compiled_anew_with_one_warning(
    read: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert read() == ["360 images; compiled"]
    assert read() == ["360 images; found"]
    breaks: list[tuple[tuple[str, ...], Callable[[bytes], bytes]]] = [
        (("nbi", "nbc"), lambda data: b"\x93garbage" * 100),
        (("nbc",), flip_a_byte),
        (("nbi",), lambda data: b""),
    ]
    for suffixes, change in breaks:
        for file in (file for suffix in suffixes for file in files(tmp_path, suffix)):
            file.write_bytes(change(file.read_bytes()))
        warning, result = read()
        assert warning.startswith(f"numba's compiled code in {tmp_path}/code/")
        assert "cannot be read and is compiled anew: " in warning
        assert result == "360 images; compiled"
    assert read() == ["360 images; found"]


FULL_DISK = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
"""


def test_code_that_cannot_be_written_is_not_kept_and_told_once(
    read: Callable[..., list[str]], tmp_path: Path
) -> None:
    warning, result = read(FULL_DISK)
    assert warning.startswith(f"numba's compiled code in {tmp_path}/code/")
    assert "cannot be kept, so that each run compiles for seconds: " in warning
    assert "File too large" in warning
    assert result == "360 images; compiled"


def test_without_a_folder_to_write_to_a_run_goes_on(read: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert read(folder="file")[-1].startswith("360 images; ")
