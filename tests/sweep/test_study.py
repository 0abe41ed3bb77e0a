"""The study of docs/study.md: its report can be made again from results/study, with the figures it cites."""

import json
import re
import shlex
from pathlib import Path

import pytest

from anynet_dist.cli import Parser, main
from anynet_dist.commands import sweep
from anynet_dist.sweep.population import read_population
from tests.conftest import ROOT
from tests.shown_commands import shown_commands

TEXT = (ROOT / "docs" / "study.md").read_text()
COMMANDS = shown_commands("docs/study.md")
POPULATIONS = ("regnetx", "anynetx_e", "anynetx_a")


def rows(head: str) -> list[list[str]]:
    """The cells of the table whose head begins with this cell."""
    found = re.search(rf"^\| {head} \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", TEXT, flags=re.M)
    assert found
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]


def test_every_network_was_trained() -> None:
    for name in POPULATIONS:
        population = read_population(ROOT / "results" / "study" / name)
        assert (len(population.members), len(population.results)) == (64, 64)


def test_the_report_is_made_again_with_the_figures_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    (command,) = (line for line in COMMANDS if "sweep report" in line)
    assert main(shlex.split(command)[1:]) == 0
    figures = json.loads((tmp_path / "study" / "statistics.json").read_text())
    assert rows("space") == [
        [
            population["name"],
            str(population["trained"]),
            *(f"{population[key]:.2f}" for key in ("min", "median", "mean", "normalised_median")),
        ]
        for population in figures["populations"]
    ]
    assert rows("pair") == [
        [
            f"{pair['a']} and {pair['b']}",
            f"{pair['ks']:.3f}",
            "< 0.001" if pair["p"] < 0.001 else f"{pair['p']:.3f}",
            f"{pair['detectable80']:.2f}",
            f"{pair['median_difference']:.2f}",
            f"{pair['interval'][0]:.2f} to {pair['interval'][1]:.2f}",
        ]
        for pair in figures["comparisons"]
    ]
    for population, name in zip(figures["populations"], POPULATIONS, strict=True):
        for parameter, low, median, high in (row[1:] for row in rows("best of") if row[0] == name):
            found = population["ranges"][parameter]
            assert [low, median, high] == [f"{found[key]:.4g}" for key in ("low", "median", "high")]
    for picture in re.findall(r"\]\((images/study/\S+)\)", TEXT):
        assert (ROOT / "docs" / picture).exists()
        assert (tmp_path / "study" / Path(picture).name).exists()


def test_the_other_commands_are_spelt_right() -> None:
    from anynet_dist.commands import data

    for command in COMMANDS:
        program, name, *words = shlex.split(command)
        assert program == "anynet"
        parser = Parser(prog=f"anynet {name}")
        {"data": data, "sweep": sweep}[name].configure(parser)
        parser.parse_args(words)


def test_the_populations_are_those_that_the_commands_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    for name, command in zip(POPULATIONS, (line for line in COMMANDS if "sweep sample" in line), strict=True):
        assert main(shlex.split(command)[1:]) == 0
        drawn = read_population(tmp_path / "runs" / "study" / name)
        assert drawn.members == read_population(ROOT / "results" / "study" / name).members
