"""Time limits as SLURM writes them."""

from __future__ import annotations

import math
import re

FORMATS = "MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS or UNLIMITED"
_WITH_DAYS = re.compile(r"(\d{1,9})-(\d{1,9})(?::(\d{1,9}))?(?::(\d{1,9}))?")
_WITHOUT = re.compile(r"(?:(\d{1,9}):(?=\d+:))?(\d{1,9})(?::(\d{1,9}))?")


def limit_seconds(text: str) -> float:
    """The seconds of a time limit, infinite for UNLIMITED. Raises ValueError where SLURM has no such format.

    >>> limit_seconds("90"), limit_seconds("1-12")
    (5400.0, 129600.0)
    """
    if text.upper() in ("UNLIMITED", "INFINITE"):
        return math.inf
    days, hours, minutes, seconds = _parts(text)
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total == 0:
        raise ValueError(f"is no time to run in (got '{text}')")
    return float(total)


def _parts(text: str) -> tuple[int, int, int, int]:
    """Days, hours, minutes and seconds: without days a lone number is minutes, with them it is hours."""
    if found := _WITH_DAYS.fullmatch(text):
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return days, hours, minutes, seconds
    if found := _WITHOUT.fullmatch(text):
        hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return 0, hours, minutes, seconds
    raise ValueError(f"must be {FORMATS} (got '{text}')")
