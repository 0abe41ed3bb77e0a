"""A warning is shown once in a run: not for each loader, nor by each rank."""

import logging
from collections.abc import Iterator

import pytest

from anynet_dist.system.logging import setup_logging


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Puts the package's logger back as it was."""
    logger = logging.getLogger("anynet_dist")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before
    logging.captureWarnings(False)


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
