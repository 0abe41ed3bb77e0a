"""What a check found, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: Level
    subject: str
    text: str
    remedy: str = ""
    """What to do about it; not empty where something is wrong."""

    def __str__(self) -> str:
        remedy = f"\n{'':22}-> {self.remedy}" if self.remedy else ""
        return f"{self.level:8} {self.subject:12} {self.text}{remedy}"


Check = Callable[[], Iterable[Finding]]


def ok(subject: str, text: str) -> Finding:
    """All is well."""
    return Finding("ok", subject, text)


def warning(subject: str, text: str, remedy: str) -> Finding:
    """It works, but less well than it could."""
    return Finding("warning", subject, text, remedy)


def problem(subject: str, text: str, remedy: str) -> Finding:
    """A run would fail, or do something else than its config says."""
    return Finding("problem", subject, text, remedy)


def run_check(check: Check, subject: str) -> Iterator[Finding]:
    """The check's findings; a check that fails itself is a problem, not the end of the others."""
    try:
        yield from check()
    except Exception as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        yield problem(subject, f"the check failed: {first_line}", "see the message; nothing more is known")
