"""What every tracker is asked for, and how one that only accelerate knows answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from accelerate.tracking import GeneralTracker
from PIL import Image
from torch import nn

from anynet_dist.config.schema import Config
from anynet_dist.runs.trackers.view import Values
from anynet_dist.system.redaction import redact_values

Outcome = Literal["finished", "pruned", "stopped", "failed"]
Row = Sequence[Any]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a run decided and found when it started, to be shown beside its config."""

    derived: Mapping[str, Any] = field(default_factory=dict)
    """Size of the network, devices, precision, versions, commit, ..."""
    network: str = ""
    """The network as its stages, a table in Markdown."""
    score: str | None = None
    """The key of the validation score that chooses the best network, in the records."""


@dataclass(frozen=True)
class Entry:
    """One record of metrics.jsonl as trackers show it."""

    number: int
    """Its line in metrics.jsonl, from 1."""
    step: int
    """Global batches used."""
    values: Values


class Tracker(ABC):
    """A view of a run's records; all but `watch` is called on a thread of its own, in order."""

    name: str

    @abstractmethod
    def log(self, entry: Entry) -> None:
        """Show an entry."""

    def catch_up(self, kept: Sequence[Entry]) -> None:
        """Show those of the entries before this start that are missing; by default all of them."""
        for entry in kept:
            self.log(entry)

    def show_pictures(self, pictures: Mapping[str, Path], step: int) -> None:  # noqa: B027 - not every tracker can
        """Show PNG or JPEG files by name."""

    def show_table(self, name: str, columns: Sequence[str], rows: Sequence[Row], step: int) -> None:  # noqa: B027
        """Show a table."""

    def watch(self, network: nn.Module, resolution: int, resumed: bool) -> None:  # noqa: B027
        """Show the network before it trains; `resolution` is the side of an example image."""

    @abstractmethod
    def finish(self, outcome: Outcome, why: str | None) -> None:
        """Write what is waiting, and how and why the run ended."""


class AccelerateTracker(Tracker):
    """Any of accelerate's trackers, started: it gets the config, the numbers and, where it can show them,
    pictures and tables."""

    def __init__(self, tracker: GeneralTracker, config: Config, facts: RunFacts) -> None:
        self.tracker, self.name = tracker, tracker.name
        tracker.store_init_configuration(flat_options(config, facts))

    def log(self, entry: Entry) -> None:
        """As in Tracker."""
        self.tracker.log(entry.values, step=entry.step)

    def show_pictures(self, pictures: Mapping[str, Path], step: int) -> None:
        """As in Tracker, by `log_images`, where the tracker has that."""
        if not hasattr(self.tracker, "log_images"):
            return
        for name, file in pictures.items():
            picture = open_picture(file)
            # Aim takes one image a name, the others a list.
            self.tracker.log_images({name: picture if self.name == "aim" else [picture]}, step=step)

    def show_table(self, name: str, columns: Sequence[str], rows: Sequence[Row], step: int) -> None:
        """As in Tracker, by `log_table`, where the tracker has that."""
        if hasattr(self.tracker, "log_table"):
            self.tracker.log_table(name, columns=list(columns), data=[list(row) for row in rows], step=step)

    def finish(self, outcome: Outcome, why: str | None) -> None:
        """As in Tracker."""
        self.tracker.finish()


def open_picture(file: Path) -> Image.Image:
    """The picture in a file, in memory, as RGB."""
    with Image.open(file) as picture:
        return picture.convert("RGB")


def flat_options(config: Config, facts: RunFacts) -> dict[str, bool | int | float | str]:
    """The options and what was derived from them as `section.name`, without those that are not set."""
    return dict(_flat(redact_values({**asdict(config), "derived": dict(facts.derived)})))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, bool | int | float | str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float | str):
            yield prefix + key, value
        elif value is not None:
            yield prefix + key, str(value)


def markdown_table(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
