"""The learning rate over a run, as lines of text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

WIDTH, HEIGHT = 60, 6
PER_COLUMN = 8
"""Steps that are looked at for the highest in a column."""
EIGHTHS = " ▁▂▃▄▅▆▇█"


def lr_plot(learning_rate: Callable[[int], float], total_steps: int) -> list[str]:
    """Columns as high as the learning rate at steps from the first to the last, with both axes named.

    In eighths of a character, or in whole ones where the terminal's encoding lacks them.
    """
    rates = [max(map(learning_rate, steps)) for steps in _columns(total_steps)]
    top = max(rates) or 1.0
    heights = [round(8 * HEIGHT * rate / top) for rate in rates]
    symbols = EIGHTHS if _shows_blocks() else "    #####"
    lines = []
    for row in reversed(range(HEIGHT)):
        label = f"{top:.4g}" if row == HEIGHT - 1 else "0" if row == 0 else ""
        cells = "".join(symbols[min(8, max(0, height - 8 * row))] for height in heights)
        lines.append(f"  {label:>10} |{cells.rstrip()}")
    last = f"step {total_steps:,}"
    return [*lines, f"  {'':10}  {'step 1'.ljust(WIDTH - len(last))}{last}"]


def _columns(total_steps: int) -> Iterator[set[int]]:
    """A few steps of each column, the first and the last step among them."""
    for column in range(WIDTH):
        first, end = column * total_steps // WIDTH, (column + 1) * total_steps // WIDTH
        last = max(first, end - 1)
        yield {first, last, *(first + (last - first) * part // PER_COLUMN for part in range(PER_COLUMN))}


def _shows_blocks() -> bool:
    try:
        EIGHTHS.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
