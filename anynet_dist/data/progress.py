"""A progress bar for work on images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int], object]]:
    """A progress bar over `total` images with their rate and the time left; yields how to advance it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    shown = 0.0

    def advance(count: int) -> None:
        nonlocal shown
        progress.advance(task, count)
        if time.monotonic() > shown + 0.1:
            progress.refresh()
            shown = time.monotonic()

    # Its own thread, which would do the refreshing, would run while worker processes are forked.
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as progress:
        task = progress.add_task(label, total=total)
        yield advance


class _Rate(ProgressColumn):
    """Images a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f} images/s")
