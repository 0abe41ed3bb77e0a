"""Errors for people: the command line prints the message and exits with their code, without a traceback."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from anynet_dist.system.redaction import redact


class UserError(ValueError):
    """Something the user can fix. The message states what was wrong, where, and what is allowed.

    Credentials of URLs in it are redacted, because messages are printed and written to files.
    """

    exit_code = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message))


class RunError(UserError):
    """A run that had started could not continue; what it saved stays good."""

    exit_code = 1


class LostRankError(RunError):
    """Another process of the run is gone, or no longer answers."""


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None when nothing comes close."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """A UserError for an unknown `name` of a `kind`, with the nearest valid name and all that are allowed."""
    known = sorted(known)
    nearest = nearest_name(name, known)
    hint = f"; did you mean '{nearest}'?" if nearest else ""
    return UserError(f"unknown {kind} '{name}'{hint} (allowed: {', '.join(known)})")


class StoppedEarly(Exception):  # noqa: N818 - not an error
    """The run saved its state and stopped, as it was asked to: the exit code is 75, "try again"."""

    exit_code = 75
