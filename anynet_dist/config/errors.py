"""What is wrong with a config, and where: every problem is reported, all at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from anynet_dist.system.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a value was set: a line of a file, or an option on the command line."""

    file: str = ""
    line: int = 0
    flag: str = ""

    def __str__(self) -> str:
        return "command line" if self.flag else f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Setting:
    """A value that was set, not yet checked, and where."""

    value: object
    source: Source


@dataclass(frozen=True)
class Problem:
    """One thing to put right. `key` is the full dotted key; `source` is None where a default is at fault."""

    key: str
    message: str
    source: Source | None = None

    def __str__(self) -> str:
        if self.source is None:
            return f"{self.key}: {self.message}"
        if self.source.flag:
            return f"{self.source.flag}: {self.message}"
        where = f"{self.source}: {self.key}" if self.key else str(self.source)
        return f"{where}: {self.message}"


def shorten(text: str, most: int = 200) -> str:
    """The text, or its start where it is too long for a message."""
    return text if len(text) <= most else f"{text[:most]}..."


class ConfigError(UserError):
    """A config that cannot be used. The message has one line a problem, in the order of files and lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems, key=_position)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def located(self, sources: Mapping[str, Source]) -> ConfigError:
        """The same with the file and line, or the option, that set what is wrong, where that is known."""
        return ConfigError(
            replace(problem, source=problem.source or sources.get(problem.key)) for problem in self.problems
        )


def _position(problem: Problem) -> tuple[bool, str, int]:
    source = problem.source or Source()
    return bool(source.flag), source.file, source.line


@contextmanager
def located(sources: Mapping[str, Source]) -> Iterator[None]:
    """Let a ConfigError of the block, of what only plug-ins and libraries can tell, name file and line."""
    try:
        yield
    except ConfigError as error:
        raise error.located(sources) from None
