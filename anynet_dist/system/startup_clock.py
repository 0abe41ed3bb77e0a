"""Where the seconds go from the start of the process to the first training step (train.profile_startup)."""

from __future__ import annotations

import time
from collections.abc import Mapping

import psutil


class StartupClock:
    """Seconds of each part of a start, in their order, the first from when the process began."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._last = psutil.Process().create_time()

    def restart(self) -> None:
        """Begin anew: the process goes on to another run."""
        self.parts, self._last = {}, time.time()

    def done(self, part: str) -> None:
        """Count the time since the part before to this one."""
        now = time.time()
        self.parts[part] = self.parts.get(part, 0.0) + now - self._last
        self._last = now

    def divide(self, part: str, shares: Mapping[str, float]) -> None:
        """Show so many seconds of a part as parts of their own, before what is left of it."""
        rest = self.parts.pop(part) - sum(shares.values())
        self.parts |= {**shares, part: rest}

    def lines(self) -> list[tuple[str, float]]:
        """Each part and its seconds, and their sum."""
        return [*self.parts.items(), ("all", sum(self.parts.values()))]


clock = StartupClock()
"""That of this process."""
