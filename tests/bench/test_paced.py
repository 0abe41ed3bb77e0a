from __future__ import annotations

import threading
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from anynet_dist.bench.paced import Pace, Pacing, alternate_trainings
from anynet_dist.system.errors import UserError
from tests.conftest import ROOT

TURNS = Pacing(rounds=2, steps=3, warm_up=1)


def busy(seconds: float, pace: Pace) -> None:
    """Steps of so much processor time, 4 images each."""
    while True:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        pace.after_step(4)


def watched(ticks: Path, pace: Pace) -> None:
    """Beside its steps a thread notes the time, as a loader's would fetch images."""

    def tick() -> None:
        with ticks.open("w", buffering=1) as file:
            while True:
                file.write(f"{time.monotonic()}\n")
                time.sleep(0.005)

    threading.Thread(target=tick, daemon=True).start()
    while True:
        time.sleep(0.02)
        pace.after_step(1)


def sleeping(pace: Pace) -> None:
    while True:
        time.sleep(0.2)
        pace.after_step(1)


def failing(pace: Pace) -> None:
    raise ValueError("no such thing")


def ending(pace: Pace) -> None:
    pass


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes import this module."""
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.slow
def test_trainings_are_measured_and_stand_still_while_others_have_their_turn(tmp_path: Path) -> None:
    ticks = tmp_path / "ticks"
    found = alternate_trainings(
        {"busy": partial(busy, 0.1), "watched": partial(watched, ticks), "sleeping": sleeping}, TURNS
    )
    images, timing = found["busy"]
    assert images == 12
    assert len(timing.cpu) == 2
    assert min(timing.cpu) >= 0.3
    assert found["watched"][0] == 3
    assert min(found["sleeping"][1].wall) >= 0.6 > max(found["sleeping"][1].cpu)
    times = [float(line) for line in ticks.read_text().splitlines()[:-1]]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert sum(gap > 0.5 for gap in gaps) >= 2  # the turns of the others


@pytest.mark.slow
def test_what_a_training_fails_of_is_told() -> None:
    with pytest.raises(UserError, match="bad: ValueError: no such thing"):
        alternate_trainings({"good": sleeping, "bad": failing}, TURNS)
    with pytest.raises(UserError, match="short: it ended before it was measured"):
        alternate_trainings({"short": ending}, TURNS)
