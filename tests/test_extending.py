"""The examples of docs/extending.md run: parts register, and a config or a command that names one uses it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from anynet_dist.cli import main
from anynet_dist.config import load_config
from anynet_dist.data.dataset import open_dataset
from anynet_dist.training.trainer import Trainer
from tests.conftest import ROOT

DOC = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = {text.partition("\n")[0]: text for text in DOC.split("\n## ")[1:]}
pytestmark = pytest.mark.usefixtures("registries")

TINY = {"train": {"epochs": 1}, "run": {"dir": "run"}}


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", SECTIONS[section], flags=re.M | re.S)


def examples() -> list[Any]:
    return [
        pytest.param(section, yaml.safe_load(example), id=f"{section} {number}")
        for section in SECTIONS
        for number, example in enumerate(blocks(section, "yaml"), 1)
    ]


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[[str], Path]:
    """Write the python of a section to a plug-in file."""

    def write(section: str) -> Path:
        path = tmp_path / "mine.py"
        path.write_text("\n".join(blocks(section, "python")))
        return path

    return write


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for key, value in above.items():
        inner = isinstance(value, dict) and isinstance(below.get(key), dict)
        both[key] = merged(below[key], value) if inner else value
    return both


def leaves(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@pytest.mark.parametrize(("section", "example"), examples())
def test_a_config_with_the_part_trains(
    section: str,
    example: dict[str, Any],
    plugin: Callable[[str], Path],
    blobs_config: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = merged(yaml.safe_load(blobs_config.read_text()), merged(TINY, example))
    whole["run"]["dir"] = str(blobs_config.parent / "run")
    blobs_config.write_text(yaml.safe_dump(whole | {"plugins": [str(plugin(section))]}))
    result = Trainer(load_config(blobs_config).config).fit()
    assert result["test/top1"] > 0
    assert "has no effect" not in caplog.text
    saved = dict(leaves(yaml.safe_load((blobs_config.parent / "run" / "config.yaml").read_text())))
    assert dict(leaves(example)).items() <= saved.items()


def test_the_hook_is_called(
    plugin: Callable[[str], Path], blobs_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Trainer(load_config(blobs_config, ["--plugins", str(plugin("A hook"))]).config).fit()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.partition(":")[0] for line in lines] == ["step 2", "step 4", "step 6"]


def test_the_tracker_has_the_curves_of_a_resumed_run(
    plugin: Callable[[str], Path], blobs_config: Path, tmp_path: Path
) -> None:
    options = ["--plugins", str(plugin("A tracker")), "--tracking.trackers", "csv", "--resume", "auto"]
    Trainer(load_config(blobs_config, [*options, "--train.epochs", "1"]).config).fit()
    Trainer(load_config(blobs_config, options).config).fit()
    lines = (tmp_path / "run" / "trackers" / "csv" / "curves.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines if ",train/loss," in line] == list("123456")


def test_the_source_builds(
    plugin: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = "A source of images"
    monkeypatch.chdir(tmp_path)
    plugin(section)
    (command,) = blocks(section, "sh")
    assert main(shlex.split(command)[1:]) == 0
    built = open_dataset("data/stripes/train.beton")
    assert (len(built), built.classes) == (64, ("across", "down"))


def test_a_notebook_trains_in_three_lines(
    blobs_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blobs_config.rename("mine.yaml")
    training, parts = blocks("In a notebook", "python")
    assert len([line for line in training.splitlines() if line]) <= 3
    cell: dict[str, Any] = {}
    exec(training, cell)
    assert cell["result"]["test/top1"] > 0.3
    exec(parts, cell)


def test_what_a_cell_registers_needs_no_plugin_file(blobs_config: Path) -> None:
    (cell,) = blocks("A schedule", "python")
    options = ["--schedule.name", "polynomial", "--train.epochs", "1"]
    with pytest.raises(ValueError, match=r"schedule\.name: must be one of .*got 'polynomial'"):
        load_config(blobs_config, options)
    for _ in range(2):  # a cell is run again
        exec(cell, {"__name__": "__main__"})
    assert Trainer(load_config(blobs_config, options).config).fit()["epoch"] == 1


def test_every_door_is_on_the_page() -> None:
    import anynet_dist

    for name in anynet_dist.__all__:
        if name.startswith("register_"):
            assert f"import {name}" in DOC, name
