"""What the files of a run folder hold, however damaged they are.

A file that cannot be read, and a value that no run writes, count as not there and are named in `damage`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, BinaryIO, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from anynet_dist.cluster.submission import SUBMITTED
from anynet_dist.runs.folder import RunFolder

BLOCK = 2**16
LONGEST = 2**20
"""Bytes of a JSON file or of a line; what is longer was not written by a run."""
SHOWN = 40
"""Characters of a value that makes no sense, in a message."""

Count = Annotated[int, Field(ge=0, lt=2**53)]
JobNumber = Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]
Moment = Annotated[AwareDatetime, Field(strict=False)]
Seconds = Annotated[float, Field(ge=0, lt=1e11, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Facts(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class Said(_Facts):
    """status.json: what a run reports about itself."""

    state: Annotated[str, Field(pattern=r"^[a-z][a-z _-]{0,30}$")] | None = None
    reason: str | None = None
    host: str | None = None
    pid: Count | None = None
    slurm_job: JobNumber | None = None
    started: Moment | None = None
    restarts: Count | None = None
    epoch: Count | None = None
    epochs: Count | None = None
    step: Count | None = None
    total_steps: Count | None = None


class Submitted(_Facts):
    """slurm/submitted.json: the job that was submitted last."""

    job: JobNumber | None = None
    time: Moment | None = None


class Owner(_Facts):
    """run.lock: the process that uses the folder."""

    host: str | None = None
    pid: Count | None = None


class Record(_Facts):
    """A line of metrics.jsonl, as far as `anynet status` shows it."""

    time: Seconds | None = None
    eta_seconds: Seconds | None = None
    test_ema_top1: Fraction | None = Field(None, alias="test/ema_top1")
    test_top1: Fraction | None = Field(None, alias="test/top1")
    val_ema_top1: Fraction | None = Field(None, alias="val/ema_top1")
    val_top1: Fraction | None = Field(None, alias="val/top1")

    @property
    def score(self) -> tuple[float, str] | None:
        """The top-1 that counts, and what it is of."""
        scores = {
            "test ema": self.test_ema_top1,
            "test": self.test_top1,
            "val ema": self.val_ema_top1,
            "val": self.val_top1,
        }
        return next(((score, of) for of, score in scores.items() if score is not None), None)


Kind = TypeVar("Kind", bound=_Facts)


class RunFiles:
    """Reads a run folder, without ever failing or waiting."""

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        self.damage: dict[Path, str] = {}
        """The first fault of each file."""
        self.said = self._facts(self.folder.status, Said)
        if self.said and self.said.state is None:
            self._complain(self.folder.status, "does not name a state")
        self.submitted = self._facts(path / "slurm" / SUBMITTED, Submitted)
        self._facts(self.folder.lock, Owner)

    @property
    def state_is_lost(self) -> bool:
        """Whether there is a status.json, but without a state that can be read."""
        return self.folder.status in self.damage and (self.said is None or self.said.state is None)

    def complaints(self) -> list[str]:
        """Each damaged file, and what is wrong with it."""
        found = [f"{file.relative_to(self.folder.path)} {fault}" for file, fault in self.damage.items()]
        return found if os.access(self.folder.path, os.F_OK) else ["the folder is gone"]

    def records(self) -> Iterator[Record]:
        """The records of the log, the newest first, but for a last line that is just being written."""
        lines = self._lines_from_end(self.folder.metrics)
        next(lines, None)
        for line in lines:
            record = self._checked(self.folder.metrics, line, Record) if line.strip() else None
            if record:
                yield record

    def failure(self) -> str | None:
        """The last line of what the newest job of this run logged about its first failure."""
        for file in failure_files(self.folder.path):
            for line in self._lines_from_end(file):
                if line.strip():
                    return line.decode(errors="replace")
        return None

    def _facts(self, file: Path, kind: type[Kind]) -> Kind | None:
        try:
            opened = _open(file)
            if opened is None:
                return None
            with opened:
                return self._checked(file, opened.read(LONGEST), kind)
        except OSError as error:
            self._complain(file, f"cannot be read: {error.strerror}")
            return None

    def _lines_from_end(self, file: Path) -> Iterator[bytes]:
        """The lines, the last first; the very first is what follows the last line's end."""
        try:
            opened = _open(file)
            if opened is None:
                return
            with opened:
                yield from _backwards(opened)
        except OSError as error:
            self._complain(file, f"cannot be read: {error.strerror}")

    def _checked(self, file: Path, text: bytes, kind: type[Kind]) -> Kind | None:
        """The facts in a JSON object, without those that make no sense."""
        try:
            values = from_json(text)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            self._complain(
                file, f"should hold JSON objects (found {_start_of(text.decode(errors='replace'))})"
            )
            return None
        try:
            return kind.model_validate(values)
        except ValidationError as error:
            wrong = {str(fault["loc"][0]): fault["input"] for fault in error.errors(include_url=False)}
        name, value = next(iter(wrong.items()))
        self._complain(file, f"has no valid '{name}' (found {_start_of(str(value))})")
        return kind.model_validate({key: value for key, value in values.items() if key not in wrong})

    def _complain(self, file: Path, fault: str) -> None:
        self.damage.setdefault(file, fault)


def failure_files(path: Path) -> list[Path]:
    """Where the jobs of a run log why they failed, the newest first, without those that vanish meanwhile."""
    found = []
    for name in names_in(path / "slurm"):
        if name.endswith(".failure"):
            with suppress(OSError):
                found.append(((path / "slurm" / name).lstat().st_mtime, path / "slurm" / name))
    return [file for _, file in sorted(found, reverse=True)]


def names_in(folder: Path) -> list[str]:
    """What lies in a folder; nothing where it is none, or cannot be read."""
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []


def _open(file: Path) -> BinaryIO | None:
    """An ordinary file, opened without waiting, or None where there is nothing. Raises OSError."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        if file.is_symlink():
            raise OSError(errno.ENOENT, "it is a link to nothing") from None
        return None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"it is {'a folder' if stat.S_ISDIR(mode) else 'no ordinary file'}")
    return os.fdopen(descriptor, "rb")


def _backwards(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, the last first, read in blocks."""
    position, rest = file.seek(0, os.SEEK_END), b""
    while position:
        position -= (size := min(BLOCK, position))
        file.seek(position)
        rest, *lines = (file.read(size) + rest).split(b"\n")
        yield from reversed(lines)
        if len(rest) > LONGEST:
            raise OSError(errno.EFBIG, f"a line is longer than {LONGEST:,} bytes")
    yield rest


def _start_of(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")
