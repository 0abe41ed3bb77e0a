"""Files that are whole or not there: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anynet_dist.system.errors import UserError


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it is flushed to disk and renamed to `target`.

    When the block raises, the temporary file is removed and `target` stays as it was.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until the file is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `target` atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON to `target` atomically."""
    write_text(target, json.dumps(value, indent=2) + "\n")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The file's SHA-256 as lower-case hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def not_a_file(path: str | os.PathLike[str]) -> str | None:
    """What there is in place of a file, such as "is a named pipe, not a file"; None where there is a file, or
    nothing."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return None
    return _other_kind(mode)


def require_regular_file(path: str | os.PathLike[str]) -> None:
    """Raises UserError where `path` is a folder, a pipe, a device or a socket: opening it may wait for ever.

    Where there is nothing it returns: whoever opens the path tells that.
    """
    instead = not_a_file(path)
    if instead:
        raise UserError(f"{os.fspath(path)}: {instead}")


def read_regular_file(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """The bytes of a file of at most `most` bytes, opened without ever waiting for the other end of a pipe.

    Raises OSError, also where `path` is no regular file or is larger.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        instead = _other_kind(status.st_mode)
        if instead:
            raise OSError(errno.EINVAL, instead, os.fspath(path))
        if most is not None and status.st_size > most:
            raise OSError(errno.EFBIG, f"has {status.st_size:,} bytes, more than the {most:,} allowed", path)
        return file.read()


def _other_kind(mode: int) -> str | None:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return f"is {kinds[stat.S_IFMT(mode)]}, not a file" if stat.S_IFMT(mode) in kinds else None
