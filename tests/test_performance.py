"""docs/performance.md: its tables are those of results/bench, and its commands are understood."""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from anynet_dist.bench.results import WIDE, table_of
from anynet_dist.cli import Parser, main
from anynet_dist.commands import bench
from anynet_dist.commands.bench import SUBJECTS
from anynet_dist.config import load_config
from tests.conftest import ROOT
from tests.shown_commands import shown_commands

PAGE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
RESULTS = sorted((ROOT / "results" / "bench").glob("*.json"))
COMMANDS = shown_commands("docs/performance.md")


def printed_table(facts: dict[str, Any], subject: ModuleType) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=WIDE).print(table_of(facts["rows"], subject.COLUMNS)[0])
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_the_page_shows_each_result_below_the_command_that_measured_it(file: Path) -> None:
    facts = json.loads(file.read_text(encoding="utf-8"))
    command = shlex.join(facts["environment"]["command"])
    found = [line for line in COMMANDS if shlex.join(shlex.split(line)) == command]
    assert len(found) == 1, command
    _, _, after = PAGE.partition(found[0])
    shown = re.search(r"^```text\n(.*?)^```", after, flags=re.M | re.S)
    assert shown
    table = [line.rstrip() for line in shown[1].splitlines()]
    assert table == printed_table(facts, SUBJECTS[facts["subject"]])


def test_every_command_of_the_page_has_a_result() -> None:
    measured = [line for line in COMMANDS if "--json" in line]
    assert len(measured) == len(RESULTS) > 2
    assert all(shlex.split(line)[:2] == ["anynet", "bench"] for line in COMMANDS)


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_are_understood(line: str) -> None:
    """Those of whole trainings are run, with small networks, by the tests of the commands."""
    parser = Parser(prog="anynet bench")
    bench.configure(parser)
    args = parser.parse_args(shlex.split(line)[2:])
    if hasattr(args, "config"):
        load_config(ROOT / args.config, args.overrides)


@pytest.mark.slow
def test_the_commands_for_one_network_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    few = {
        "model": ["--batch", "2", "--res", "32", "--rounds", "1", "--compile", "off", "--cpu"],
        "fit": ["--cpu"],
        "checkpoint": ["--rounds", "1", "--json"],
    }
    for line in COMMANDS:
        words = shlex.split(line)[1:]
        if words[1] in few:
            assert main([*words, *few[words[1]]]) == 0
