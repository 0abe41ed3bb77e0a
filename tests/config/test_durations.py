from pathlib import Path

import pytest

from anynet_dist.config import load_config
from anynet_dist.config.durations import parse_duration, parse_interval


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("500 steps", (500, "steps")),
        ("1 step", (1, "steps")),
        ("10 minutes", (10, "minutes")),
        ("2 epochs", (2, "epochs")),
        ("3", (3, "epochs")),
        (3, (3, "epochs")),
    ],
)
def test_an_interval_has_an_amount_and_a_unit(text: str | int, meant: tuple[int, str]) -> None:
    assert parse_interval(text) == meant


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("00:00:30", 30), ("12:00:00", 43_200), ("1-02:03:04", 93_784), ("100:00:00", 360_000)],
)
def test_a_duration_is_read_as_slurm_writes_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


def test_both_are_written_in_yaml_without_quotes(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("run:\n  max_time: 12:00:00\ncheckpoint:\n  every: 5\n")
    config = load_config(path).config
    assert (config.run.max_time, config.checkpoint.every) == ("12:00:00", 5)
    path.write_text("checkpoint:\n  every: 10 minutes\n")
    assert load_config(path).config.checkpoint.every == "10 minutes"
