"""What SLURM reports about jobs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable

SQUEUE_TIMEOUT_S = 20


def job_states(jobs: Iterable[str]) -> dict[str, str] | None:
    """State, such as RUNNING or PENDING, of those jobs that SLURM has not done with; None where it cannot
    be asked.

    An array's number stands for its members that wait together; each that has started has one of its own.
    """
    wanted = sorted(set(jobs))
    if not wanted:
        return {}
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--noheader", "--array", "--jobs", ",".join(wanted), "--format", "%A %F %T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SQUEUE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:  # so it answers when the only job asked for is over
        return {} if "Invalid job id" in done.stderr else None
    states: dict[str, str] = {}
    for line in done.stdout.splitlines():
        own, array, state = line.split()
        states[own] = state
        states.setdefault(array, state)
    return states
