"""What was chosen automatically, and why: shown once, in a line of its own or in the banner of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """A value, what it is of, and the reason for it; no reason where there is nothing to explain."""

    subject: str
    value: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.value}: {self.why}" if self.why else self.value


_collected: ContextVar[list[Choice] | None] = ContextVar("collected", default=None)


def tell_choice(logger: logging.Logger, subject: str, value: object, why: str) -> None:
    """Log a choice, or leave it to whoever collects choices."""
    if _collected.get() is None:
        logger.info("%s: %s, because %s", subject, value, why)
    note_choice(subject, value, why)


def note_choice(subject: str, value: object, why: str = "") -> None:
    """What `tell_choice` does for whoever collects choices; logs nothing elsewhere."""
    collected, choice = _collected.get(), Choice(subject, str(value), why)
    if collected is not None and choice not in collected:
        collected.append(choice)


@contextmanager
def collected_choices(logger: logging.Logger) -> Iterator[list[Choice]]:
    """The choices made during the block, in their order; logged as lines where the block fails."""
    choices: list[Choice] = []
    token = _collected.set(choices)
    try:
        yield choices
    except BaseException:
        for choice in choices:
            logger.info("%s: %s", choice.subject, choice)
        raise
    finally:
        _collected.reset(token)
