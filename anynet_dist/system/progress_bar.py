"""A progress bar on the terminal."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

SECONDS_BETWEEN_REFRESHES = 0.1


class ProgressBar:
    """A bar over `total` items with the time left and, where `unit` names the items, their rate.

    A context manager, on stderr unless a `console` is given; `transient` removes the bar at the end. `done`
    items were processed earlier. Nothing is displayed unless `visible`.
    """

    def __init__(
        self,
        label: str,
        total: int,
        *,
        done: int = 0,
        unit: str = "",
        console: Console | None = None,
        transient: bool = False,
        visible: bool = True,
    ) -> None:
        rate = (_Rate(unit),) if unit else ()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            *rate,
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            auto_refresh=False,  # rich's refresh thread would be running while worker processes are forked
            transient=transient,
            disable=not visible,
        )
        self.task = self.progress.add_task(label, total=total, completed=done)
        self.refreshed = 0.0

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def advance(self, count: int = 1) -> None:
        """Count `count` more items as done."""
        self.progress.advance(self.task, count)
        if time.monotonic() > self.refreshed + SECONDS_BETWEEN_REFRESHES:
            self.progress.refresh()
            self.refreshed = time.monotonic()


class _Rate(ProgressColumn):
    """Items per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f} {self.unit}/s")
