"""Limits of the operating system on this process: raised where they may be, named where they are met."""

from __future__ import annotations

import errno
import resource

from anynet_dist.system.errors import UserError

OPEN_FILES = 65_536


def raise_open_files() -> None:
    """Let this process open as many files as it may, up to OPEN_FILES: loader workers need some each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def too_many_open_files() -> str:
    """The message for a process that may open no more files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        f"too many open files, this process may have {soft}: allow more (ulimit -n 4096 before the start;"
        " docker run --ulimit nofile=4096; LimitNOFILE= of a service), or lower data.workers"
    )


def refusal(error: OSError) -> UserError:
    """What the operating system refuses, as an error message."""
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.EMFILE:
        return UserError(where + too_many_open_files())
    if error.errno == errno.ENOSPC and not where:
        return UserError(
            f"{error.strerror}: make room on the disk, or in /dev/shm (docker run --shm-size=8g)"
        )
    return UserError(f"{where}{error.strerror or error}")


def names_open_files(error: BaseException) -> bool:
    """Whether an error, of whatever kind, comes of too few files that may be open."""
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return True
    text = str(error)
    return "Too many open files" in text or "received 0 items of ancdata" in text
