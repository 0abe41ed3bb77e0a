"""Standard output of commands that make files: a terminal that is closed changes nothing about those."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, TextIO


class TolerantStream:
    """A text stream that drops what it cannot write: a closed terminal or pipe, a full disk.

    What the terminal's encoding lacks is written as an escape sequence.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write as far as possible; returns the length of `text` in any case."""
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            encoding = self.stream.encoding or "ascii"
            self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError):  # ValueError: the stream was closed
            pass
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each of the strings."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush as far as possible."""
        with suppress(OSError, ValueError):
            self.stream.flush()

    def isatty(self) -> bool:
        """Whether a person reads it."""
        try:
            return self.stream.isatty()
        except ValueError:
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def tolerate_lost_output() -> None:
    """From here on, output that cannot be written is dropped and does not end this process."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed before Python started
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process
        if not isinstance(stream, TolerantStream):
            setattr(sys, name, TolerantStream(stream))
