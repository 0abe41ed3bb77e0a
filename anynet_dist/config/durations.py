"""What options that are times mean: `10 minutes`, `500 steps`, `1-12:00:00`."""

from __future__ import annotations

from typing import Literal, NamedTuple

Unit = Literal["steps", "minutes", "epochs"]


class Every(NamedTuple):
    """How often something happens."""

    amount: int
    unit: Unit


def parse_interval(text: str | int) -> Every:
    """The amount and unit of `500 steps`, `10 minutes` or `2 epochs`; a bare number counts epochs."""
    amount, _, unit = str(text).partition(" ")
    units: dict[str, Unit] = {"step": "steps", "minute": "minutes", "epoch": "epochs", "": "epochs"}
    return Every(int(amount), units[unit.removesuffix("s")])


def parse_duration(text: str) -> float:
    """The seconds of `HH:MM:SS` or `D-HH:MM:SS`, as SLURM writes them."""
    days, _, clock = text.rpartition("-")
    hours, minutes, seconds = (int(part) for part in clock.split(":"))
    return float(((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds)
