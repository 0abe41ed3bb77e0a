"""Copies of .beton files on a disk of this machine, checked by their checksums."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from anynet_dist.data.beton.estimate import full_disk_is_named, gibibytes
from anynet_dist.data.beton.format import BetonError
from anynet_dist.data.beton.sidecar import Sidecar, checksums_path, companions, open_beton, sidecar_path
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import atomic_path, check_outputs

CHUNK = 16 * 2**20


@dataclass(frozen=True)
class Staged:
    """A copy and how it came about."""

    path: Path
    size: int
    seconds: float | None
    """Seconds the copying took; None where the copy was there already."""


def staged_path(source: Path, sidecar: Sidecar, folder: Path) -> Path:
    """Where the copy of a file lies: different contents never share a path, equal ones do."""
    return folder / sidecar.sha256[:16] / source.name


def stage(source: Path, folder: Path) -> Staged:
    """Copy a .beton file with what belongs to it below `folder`, unless its copy is there already.

    The checksum is taken while copying, and the file has its name only when it is right. Of several
    processes on one machine that ask at once, one copies and the others wait. Raises BetonError where the
    file does not fit its sidecar, and UserError when the disk is too small or `folder` cannot be written.
    """
    _, sidecar = open_beton(source)
    target = staged_path(source, sidecar, folder)
    # By its name what is there can only be a copy of the same content, whole or not.
    check_outputs(target, checksums_path(target), sidecar_path(target), overwrite=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(target):
        if _is_complete(target, sidecar):
            return Staged(target, sidecar.size, None)
        started = time.monotonic()
        _remove_leftovers(target)
        _check_room(target, sidecar)
        with full_disk_is_named(target):
            _copy(source, target, sidecar)
        return Staged(target, sidecar.size, time.monotonic() - started)


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Wait until no other process of this machine is at it. The kernel frees the lock of one that dies."""
    descriptor = os.open(target.with_name(f".{target.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_complete(target: Path, sidecar: Sidecar) -> bool:
    """Whether a copy is there. Its checksum was compared when it was made; its tables are looked at again."""
    if not sidecar_path(target).exists():
        return False
    try:
        return open_beton(target)[1] == sidecar
    except BetonError:
        return False


def _remove_leftovers(target: Path) -> None:
    """Remove what a copying that was killed, or a change of the copy, has left."""
    sidecar_path(target).unlink(missing_ok=True)
    for leftover in target.parent.glob(f".{target.name}*.partial"):
        leftover.unlink(missing_ok=True)


def _check_room(target: Path, sidecar: Sidecar) -> None:
    free = shutil.disk_usage(target.parent).free + (target.stat().st_size if target.exists() else 0)
    if sidecar.size > free:
        raise UserError(
            f"{target} needs {gibibytes(sidecar.size)}, but {target.parent} has {gibibytes(free)} free"
        )


def _copy(source: Path, target: Path, sidecar: Sidecar) -> None:
    """The file itself, its images' checksums, and last its sidecar, which says that all is there."""
    target.unlink(missing_ok=True)
    source_sidecar, source_checksums = companions(source)
    _copy_checked(source, target, sidecar.sha256)
    if sidecar.checksums_sha256:
        _copy_checked(source_checksums, checksums_path(target), sidecar.checksums_sha256)
    with atomic_path(sidecar_path(target)) as temporary:
        shutil.copyfile(source_sidecar, temporary)


def _copy_checked(source: Path, target: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    with atomic_path(target) as temporary, open(source, "rb") as read, open(temporary, "wb") as written:
        while chunk := read.read(CHUNK):
            digest.update(chunk)
            written.write(chunk)
        written.flush()
        if digest.hexdigest() != sha256:
            raise BetonError(
                f"{source}: its checksum is not the one in its sidecar, so it was not copied to"
                f" {target.parent}; 'anynet data verify' says more"
            )
