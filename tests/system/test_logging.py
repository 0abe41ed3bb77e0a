"""A warning is shown once in a run: not for each loader, nor by each rank."""

import json
import logging
from pathlib import Path

import pytest

from anynet_dist.system.logging import held_log, log_to_file, setup_logging

pytestmark = pytest.mark.usefixtures("own_logging")


def told(capsys: pytest.CaptureFixture[str], *warnings: tuple[str, str]) -> list[str]:
    """What the console shows of warnings, each with its module."""
    setup_logging()
    for module, text in warnings:
        logging.getLogger(f"anynet_dist.{module}").warning("%s", text)
    return capsys.readouterr().out.splitlines()


def test_once_for_all_loaders(capsys: pytest.CaptureFixture[str]) -> None:
    same = ("data.loaders", "FFCV is not installed")
    other = ("data.loaders", "something else")
    assert told(capsys, same, other, same) == ["warning: FFCV is not installed", "warning: something else"]


@pytest.mark.parametrize(
    ("rank", "local_rank", "shown"),
    [
        ("0", "0", ["warning: everywhere", "warning: this machine", "warning: this rank"]),
        ("2", "0", ["[rank 2] warning: this machine", "[rank 2] warning: this rank"]),
        ("3", "1", ["[rank 3] warning: this rank"]),
    ],
)
def test_once_for_all_ranks(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    rank: str,
    local_rank: str,
    shown: list[str],
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    warnings = [
        ("config.load", "everywhere"),
        ("data.loaders.shared_memory", "this machine"),
        ("training.resilience.watchdog", "this rank"),
    ]
    assert told(capsys, *warnings) == shown


def test_quiet_shows_warnings_and_the_file_has_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logging("quiet")
    logger = logging.getLogger("anynet_dist.training")
    with held_log() as early:
        logger.info("chosen early")
        close = log_to_file(tmp_path / "console.log", early)
    logger.info("an epoch")
    logger.warning("a warning")
    close()
    assert capsys.readouterr().out.splitlines() == ["warning: a warning"]
    assert [line.split()[-1] for line in (tmp_path / "console.log").read_text().splitlines()] == [
        "early",
        "epoch",
        "warning",
    ]


def test_debug_shows_more(capsys: pytest.CaptureFixture[str]) -> None:
    for level, shown in (("info", ""), ("debug", "a detail\n")):
        setup_logging(level)  # type: ignore[arg-type]
        logging.getLogger("anynet_dist.training").debug("a detail")
        assert capsys.readouterr().out == shown


def test_json_is_one_object_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "2")
    setup_logging(json=True)
    logging.getLogger("anynet_dist.training").warning("two\nlines from https://me:secret@host")
    (line,) = capsys.readouterr().out.splitlines()
    entry = json.loads(line)
    assert entry.pop("time").endswith("+00:00")
    assert entry == {"level": "warning", "rank": 2, "message": "two\nlines from https://***@host"}
