"""The progress bar as it is drawn on a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from anynet_dist.system.progress_bar import ProgressBar


def drawn(*, unit: str = "", visible: bool = True) -> str:
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=120, color_system=None)
    with ProgressBar("train.beton", 10, done=2, unit=unit, console=console, visible=visible) as bar:
        bar.advance()
        bar.advance(4)
    return terminal.getvalue()


def test_the_bar_counts_from_what_was_done_earlier() -> None:
    assert "train.beton" in drawn()
    assert drawn().rpartition("/10")[0].endswith(" 7")


def test_the_rate_is_drawn_where_the_items_have_a_name() -> None:
    assert "images/s" in drawn(unit="images")
    assert "/s" not in drawn()


def test_an_invisible_bar_draws_nothing() -> None:
    assert drawn(visible=False) == ""
