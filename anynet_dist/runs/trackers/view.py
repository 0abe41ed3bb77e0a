"""What trackers show of a record of metrics.jsonl: its numbers, in groups: train, val, test, speed, ..."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Values = dict[str, float]

GROUPS = {
    "data_wait": "speed",
    "eta_seconds": "speed",
    "images_per_second": "speed",
    "mfu": "speed",
}
UNGROUPED = ("lr", "grad_norm", "epoch", "bad_steps", "skipped_steps")
"""Keys of records that name no split, beside those in GROUPS."""
RARE = ("bad_steps", "skipped_steps", "not_finite")
"""Counters that stay zero in most runs: shown once they are not."""
NOT_SHOWN = ("step", "time")
"""Of every record: the axis."""


def view_key(key: str, split: str = "train") -> str:
    """The name that trackers show for a key of a record about a split; it begins with its group."""
    if "/" in key:
        return key
    group = "system" if "memory" in key or key.startswith(("gpu_", "cpu_")) else GROUPS.get(key, split)
    return f"{group}/{key}"


def view(record: Mapping[str, Any]) -> Values:
    """The numbers of a record under the names that trackers show."""
    split = next((key.partition("/")[0] for key in record if "/" in key), "train")
    return {
        view_key(key, split): value
        for key, value in record.items()
        if isinstance(value, int | float) and key not in NOT_SHOWN and (value or not _is_rare(key))
    }


def record_key(name: str) -> str:
    """The key, in a record, of what trackers show by this name."""
    group, _, key = name.partition("/")
    return key if group in ("speed", "system") or key in UNGROUPED else name


def _is_rare(key: str) -> bool:
    return key.rpartition("/")[2].removeprefix("ema_") in RARE


def better(key: str) -> Literal["min", "max"] | None:
    """Whether small or large values of a curve of training or validation are good; None for others."""
    group, _, name = key.rpartition("/")
    if group not in ("train", "val"):
        return None
    if name.endswith("loss"):
        return "min"
    return "max" if name.endswith(("top1", "top5", "accuracy")) else None


class Best:
    """Follows the validation score that chooses the best network; `score` is its key in the records."""

    def __init__(self, score: str | None) -> None:
        self.score = score
        self.value: float | None = None

    def update(self, record: Mapping[str, Any]) -> Values:
        """What a record adds to the view: `best/SCORE` and `best/epoch`, where it has a new best score."""
        found = record.get(self.score) if self.score else None
        if not isinstance(found, int | float) or (self.value is not None and not found > self.value):
            return {}
        self.value = found
        name = str(self.score).rpartition("/")[2].removeprefix("ema_")
        return {f"best/{name}": found, "best/epoch": record["epoch"]}
