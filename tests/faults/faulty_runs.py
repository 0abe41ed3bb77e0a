"""Runs whose file system fails, or that are killed, at a chosen operation; see faults.c."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

import pytest

from tests.conftest import PATIENCE
from tests.warm_start import Fault, WarmStart

SOURCE = Path(__file__).with_name("faults.c")


class Mode(IntEnum):
    """What happens at the operation; the numbers are those of faults.c."""

    LIST = 0
    KILL_BEFORE = 1
    KILL_AFTER = 2
    EIO_ONCE = 3
    NO_SPACE = 4
    """From then on, for whatever needs space."""
    READ_ONLY = 5
    """From then on."""


class FaultyRuns:
    """Runs of one command line, each in a folder of its own."""

    def __init__(self, warm: WarmStart, words: Sequence[object]) -> None:
        self.warm, self.words = warm, words

    def run(
        self, folder: Path, mode: Mode | None = None, number: int = 0, listing: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The command with `--run.dir FOLDER/run`; with a fault below FOLDER where there is a mode."""
        folder.mkdir(exist_ok=True)
        return self.warm.run(
            [*self.words, "--run.dir", folder / "run"],
            timeout=PATIENCE,
            environment={**os.environ, "OMP_NUM_THREADS": "1"},
            fault=None if mode is None else Fault(folder, number, mode, listing),
        )

    def operations(self, folder: Path) -> list[str]:
        """What an undisturbed run does to the file system, an operation each: its name and path."""
        listing = folder.with_suffix(".operations")
        self.run(folder, Mode.LIST, listing=listing)
        return [line.partition(" ")[2] for line in listing.read_text().splitlines()]


@contextmanager
def faulty(folder: Path) -> Iterator[WarmStart]:
    """A process to fork commands from that can fail so; skips the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build tests/faults/faults.c with")
    library = folder / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    warm = WarmStart(library)
    try:
        yield warm
    finally:
        warm.close()
