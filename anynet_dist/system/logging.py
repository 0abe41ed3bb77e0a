"""Console and console.log. Rank 0 logs everything; the other ranks log only warnings and errors."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Literal

from rich.console import Console, ConsoleRenderable
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler
from rich.table import Table

from anynet_dist.system import distributed
from anynet_dist.system.json_lines import json_line, json_wanted, want_json
from anynet_dist.system.redaction import RedactingFilter, redact

# Modules whose warnings are the same on all ranks, or on those of a machine: one of them is enough.
SAME_ON_ALL = (
    "anynet_dist.config",
    "anynet_dist.models",
    "anynet_dist.data.loaders.factory",
    "anynet_dist.data.loaders.device",
    "anynet_dist.runs.checkpoints",
    "anynet_dist.training.distributed.accelerator",
    "anynet_dist.training.distributed.engine",
    "anynet_dist.training.evaluation",
    "anynet_dist.training.distributed.launcher",
)
SAME_ON_A_MACHINE = ("anynet_dist.data.loaders.kept_code", "anynet_dist.data.loaders.shared_memory")

LABEL_WIDTH = 16
"""Columns for the label of a record with `cells`, its indentation included."""

console = Console(soft_wrap=True, highlight=False)


Level = Literal["quiet", "info", "debug"]
LEVELS: dict[Level, int] = {"quiet": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}


def setup_logging(level: Level = "info", json: bool = False) -> None:
    """Send the package's log to the console: rank 0's from `level` on, that of others from WARNING on.

    Of what the console does not show, a run's own file gets what is INFO. `json` makes each record an object.
    """
    want_json(json)
    shown = LEVELS[level] if distributed.is_main() else logging.WARNING
    handler: logging.Handler
    if sys.stdout.isatty() and not json:
        handler = _TerminalHandler(
            console=console,
            show_time=False,
            show_level=False,
            show_path=False,
            markup=False,
            highlighter=NullHighlighter(),
        )
    else:
        handler = logging.StreamHandler(sys.stdout)
    prefix = "" if distributed.is_main() else f"[rank {distributed.rank()}] "
    handler.setFormatter(_JSONFormatter() if json else _LevelFormatter(prefix))
    handler.setLevel(shown)
    handler.addFilter(RedactingFilter())
    handler.addFilter(_NewsOnly())
    logger = logging.getLogger("anynet_dist")
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        old.close()
    logger.addHandler(handler)
    logger.setLevel(min(shown, logging.INFO) if distributed.is_main() else shown)
    logger.propagate = False
    logging.captureWarnings(True)


def shows_progress() -> bool:
    """Whether the console shows what is going on, and not only warnings or JSON."""
    handlers = logging.getLogger("anynet_dist").handlers
    return not json_wanted() and all(each.level <= logging.INFO for each in handlers)


@contextmanager
def held_log() -> Iterator[MemoryHandler]:
    """Keep what is logged during the block in memory, for a file that cannot be written yet."""
    handler = MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    logger = logging.getLogger("anynet_dist")
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        handler.close()


def log_to_file(path: Path, held: MemoryHandler) -> Callable[[], None]:
    """Append what was held, and all that is logged until the function returned is called, to `path`.

    Each line has its time.
    """
    handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    handler.addFilter(RedactingFilter())
    handler.addFilter(_NewsOnly())
    logger = logging.getLogger("anynet_dist")
    logger.removeHandler(held)
    held.setTarget(handler)
    held.flush()
    logger.addHandler(handler)

    def close() -> None:
        logger.removeHandler(handler)
        handler.close()

    return close


class _TerminalHandler(RichHandler):
    """Makes two columns of a record with `cells`: a label, and a value that is wrapped where it is long."""

    def render_message(self, record: logging.LogRecord, message: str) -> ConsoleRenderable:
        cells = getattr(record, "cells", None)
        if cells is None:
            return super().render_message(record, message)
        label, value = map(redact, cells)
        row = Table.grid(padding=(0, 1))
        row.add_column(width=LABEL_WIDTH, style="bold")
        row.add_column(overflow="fold")
        row.add_row(f"  {label}", value)
        return row


class _NewsOnly(logging.Filter):
    """Lets a warning pass once: not again for each loader, nor from each rank where all log the same."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        message = record.getMessage()
        known = message in self.shown or self._said_by_another(record.name)
        self.shown.add(message)
        return not known

    @staticmethod
    def _said_by_another(name: str) -> bool:
        if distributed.is_main():
            return False
        return name.startswith(SAME_ON_ALL) or (
            distributed.local_rank() > 0 and name.startswith(SAME_ON_A_MACHINE)
        )


class _LogFile(logging.FileHandler):
    """A file that leaves out what it cannot write, on a full disk, without disturbing the program."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)

    def close(self) -> None:
        """Close the file; what it did not take is left out here, too."""
        with suppress(OSError):
            super().close()


class _JSONFormatter(logging.Formatter):
    """One object a record."""

    def format(self, record: logging.LogRecord) -> str:
        trace = {"exception": redact(self.formatException(record.exc_info))} if record.exc_info else {}
        cells = getattr(record, "cells", None)
        message = ": ".join(map(redact, cells)) if cells else record.getMessage()
        return json_line(record.levelname, message, record.created, **trace)


class _LevelFormatter(logging.Formatter):
    """Plain text for information; warnings and errors carry their level."""

    def __init__(self, prefix: str) -> None:
        super().__init__("%(message)s")
        self.prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"{self.prefix}{level}{super().format(record)}"
