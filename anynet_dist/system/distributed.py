"""What a process knows of the others before torch is imported: the launcher's environment variables."""

from __future__ import annotations

import os


def world_size() -> int:
    """Number of processes in the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number among all, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's number on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))


def is_main() -> bool:
    """Whether this is the process that speaks: rank 0."""
    return rank() == 0
