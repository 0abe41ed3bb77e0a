"""One build of a file at a time: the lock beside `train.beton` is `.train.beton.lock` and names its owner."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from anynet_dist.system.errors import UserError

log = logging.getLogger(__name__)


@contextmanager
def build_lock(path: Path) -> Iterator[None]:
    """Hold the lock of `path` for the block; raises UserError that names the owner when another build has
    it.

    A lock whose owner is gone is taken over, and what that build left behind is removed. On one machine the
    kernel decides who owns it, so a process number used again does no harm. Whether an owner on another
    machine still runs cannot be seen from here: its lock is respected.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    descriptor = _acquire(lock, path)
    try:
        _remove_leftovers(path)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(lock: Path, path: Path) -> int:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            ours = _flock(descriptor)
            owner = _read_owner(descriptor)
            if not _same_file(descriptor, lock):  # its owner ended and removed it meanwhile
                os.close(descriptor)
                continue
            if ours is False or _may_run(owner, kernel_says_gone=bool(ours)):
                raise _taken(lock, path, owner)
            if owner:
                log.warning(
                    "%s: the build of process %s was stopped; its lock is taken over", path, owner["pid"]
                )
            _write_owner(descriptor)
            return descriptor
        except BaseException:
            os.close(descriptor)
            raise


def _flock(descriptor: int) -> bool | None:
    """Whether the kernel gave us the lock; None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _same_file(descriptor: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), lock.stat())
    except FileNotFoundError:
        return False


def _may_run(owner: dict[str, Any], kernel_says_gone: bool) -> bool:
    if not owner:
        return False
    if owner["host"] != socket.gethostname():
        return True
    return not kernel_says_gone and owner["pid"] != os.getpid() and psutil.pid_exists(owner["pid"])


def _read_owner(descriptor: int) -> dict[str, Any]:
    """{"host", "pid"}, or {} for a lock just created or cut short."""
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return {"host": str(owner["host"]), "pid": int(owner["pid"])}
    except (ValueError, KeyError, TypeError):
        return {}


def _write_owner(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)


def _taken(lock: Path, path: Path, owner: dict[str, Any]) -> UserError:
    who = f"process {owner['pid']} on {owner['host']}" if owner else "another process"
    return UserError(f"{path}: is being built by {who}; wait for it, or, if it no longer runs, remove {lock}")


def _remove_leftovers(path: Path) -> None:
    for leftover in path.parent.glob(f".{path.name}.*.partial"):
        log.warning("%s: left by a build that was stopped; removed", leftover)
        leftover.unlink(missing_ok=True)
