"""How the threads of torch's CPU kernels wait for each other: decided before torch is imported.

GNU's OpenMP, which torch brings along, lets threads that have no work spin for a while. That gains little on
an idle machine and costs much on a busy one, where the spinning threads take the cores from those that work.
"""

from __future__ import annotations

import os
import sys

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}

_reason: str | None = None


def wait_passively() -> None:
    """Let waiting threads sleep, unless the environment says how they wait.

    Does nothing once torch is imported: OpenMP has read its settings by then.
    """
    global _reason
    decided = [f"{name}={os.environ[name]}" for name in PASSIVE if name in os.environ]
    if decided:
        _reason = f"{', '.join(decided)}, as the environment says"
    elif "torch" not in sys.modules:
        os.environ.update(PASSIVE)
        _reason = "OMP_WAIT_POLICY=PASSIVE: spinning would slow a machine that other processes use"


def wait_policy() -> str | None:
    """What `wait_passively` decided, with the reason; None where it was not asked or came too late."""
    return _reason
