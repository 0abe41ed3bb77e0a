"""Files that are complete or not there: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anynet_dist.system.errors import UserError

PARTIAL = re.compile(r"\..+\.\d+\.partial")
"""The name of a temporary file: that of its target, and the process that writes it."""


class NotAFileError(UserError, OSError):
    """A path to write a file to is no regular file. An OSError too, for callers that continue without it."""


def regular_target(target: str | os.PathLike[str]) -> Path:
    """The path that writing to `target` replaces or makes: `target`, or the file that this link leads to.

    Raises NotAFileError where it is a folder, a device or the like, or a link that leads nowhere.
    """
    target = Path(target)
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        if target.is_symlink():
            raise NotAFileError(
                f"{target} is a link to {target.readlink()}, which does not exist: remove the link, or name"
                " another file"
            ) from None
        return target
    instead = _other_kind(mode)
    if instead:
        raise NotAFileError(f"{target} {instead}: name another file to write")
    return target.resolve() if target.is_symlink() else target


def check_outputs(*targets: Path, overwrite: bool = False) -> None:
    """Check the files that a user wants written, before the work that makes them.

    Raises UserError where one cannot be written or, without `overwrite`, exists already.
    """
    for target in targets:
        _check_folder_of(target)
        try:
            regular_target(target)
        except NotAFileError:
            raise
        except OSError as error:  # links in a circle, a name too long
            raise UserError(f"{target} cannot be written: {error.strerror}") from None
    existing = [str(target) for target in targets if target.exists()]
    if existing and not overwrite:
        verb = "exists" if len(existing) == 1 else "exist"
        raise UserError(f"{', '.join(existing)} {verb} already: write elsewhere, or replace with --overwrite")


def _check_folder_of(target: Path) -> None:
    folders = target.absolute().parents or [target]
    existing = next(folder for folder in folders if os.path.lexists(folder))
    if not existing.is_dir():
        raise UserError(f"{target} cannot be written: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{target} cannot be written: there is no permission to write in {existing}")


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it is flushed to disk and renamed to `target`.

    Where `target` is a link to a file, that file is written. When the block raises, the temporary file is
    removed and `target` stays as it was. Raises NotAFileError where `target` is no regular file: the rename
    would put a file in the place of a device.
    """
    target = regular_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with naming(target):
            yield temporary
            flush(temporary)
            os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):  # which would hide the first error
            temporary.unlink(missing_ok=True)
        raise


def remove_partials(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder which only this one writes to."""
    for path in folder.glob(".*.partial"):
        if PARTIAL.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let an OSError of the block that names no file, as of a write or a flush, name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = os.fspath(path)
        raise


def flush(path: Path) -> None:
    """Wait until the file is on the disk."""
    with naming(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `target` atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # paths may be no UTF-8


def to_json(value: Any) -> str:
    """`value` as the indented JSON of our files."""
    return json.dumps(value, indent=2) + "\n"


def write_json(target: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON to `target` atomically."""
    write_text(target, to_json(value))


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

    Where there is nothing it returns: whoever opens the path reports that.
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
