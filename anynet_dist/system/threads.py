"""How the threads of torch's CPU kernels wait for each other: decided before torch is imported.

GNU's OpenMP, which torch brings along, lets threads that have no work spin for a while. On a machine that
other processes use they take the cores from those that work; without any spinning, waking them takes long.
A short spin does well on both.
"""

from __future__ import annotations

import os
import sys

SHORT_SPIN = {"GOMP_SPINCOUNT": "1000"}
# Whichever of these is set, the user has decided.
DECIDED = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")

_reason: str | None = None


def limit_spinning() -> None:
    """Let waiting threads spin for a short while, then sleep, unless the environment sets how they wait.

    Does nothing once torch is imported: OpenMP has read its settings by then.
    """
    global _reason
    decided = [f"{name}={os.environ[name]}" for name in DECIDED if name in os.environ]
    if decided:
        _reason = f"{', '.join(decided)}, as set in the environment"
    elif "torch" not in sys.modules:
        os.environ.update(SHORT_SPIN)
        _reason = "GOMP_SPINCOUNT=1000: longer spinning would slow a machine that other processes use"


def wait_policy() -> str | None:
    """What `limit_spinning` decided, with the reason; None where it was not asked or came too late."""
    return _reason
