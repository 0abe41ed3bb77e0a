"""Console and console.log. Rank 0 logs everything; the other ranks log only warnings and errors."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from anynet_dist.system import distributed
from anynet_dist.system.redaction import RedactingFilter

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

console = Console(soft_wrap=True, highlight=False)


def setup_logging(quiet: bool = False) -> None:
    """Send the package's log to the console: from INFO on rank 0, from WARNING on others or if `quiet`."""
    level = logging.INFO if distributed.is_main() and not quiet else logging.WARNING
    handler: logging.Handler
    if sys.stdout.isatty():
        handler = RichHandler(
            console=console, show_time=False, show_level=False, show_path=False, markup=False
        )
    else:
        handler = logging.StreamHandler(sys.stdout)
    prefix = "" if distributed.is_main() else f"[rank {distributed.rank()}] "
    handler.setFormatter(_LevelFormatter(prefix))
    handler.addFilter(RedactingFilter())
    handler.addFilter(_NewsOnly())
    logger = logging.getLogger("anynet_dist")
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        old.close()
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    logging.captureWarnings(True)


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


class _LevelFormatter(logging.Formatter):
    """Plain text for information; warnings and errors carry their level."""

    def __init__(self, prefix: str) -> None:
        super().__init__("%(message)s")
        self.prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"{self.prefix}{level}{super().format(record)}"
