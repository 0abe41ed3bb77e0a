"""A population's folder reads back as it was written."""

from pathlib import Path

import pytest

from anynet_dist.sweep.population import (
    Member,
    Population,
    Result,
    Stage,
    read_population,
    write_population,
)
from anynet_dist.system.errors import UserError

POPULATION = Population(
    name="two",
    kind="imported",
    members=(
        Member(
            id="0000",
            parameters={"depth1": 3, "block": "bottleneck"},
            complexity={"flops": 1e6, "params": 2000},
            stages=(Stage(block="bottleneck", depth=3, width=32, group_width=8),),
        ),
        Member(id="0001", parameters={"depth1": 1, "block": "basic"}),
    ),
    results={"0001": Result(id="0001", errors=(10.5, 11.5), curve=((1, 50.0), (2, 10.5)))},
    origin={"seed": 3},
)


def test_a_population_reads_back_as_it_was_written(tmp_path: Path) -> None:
    write_population(tmp_path / "two", POPULATION)
    read = read_population(tmp_path / "two")
    assert read == POPULATION
    assert [member.id for member in read.trained] == ["0001"]
    assert read.results["0001"].error == 11.0


def test_what_is_no_population_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no population: .*anynet sweep sample"):
        read_population(tmp_path)
    write_population(tmp_path / "two", POPULATION)
    with pytest.raises(UserError, match="already holds a population"):
        write_population(tmp_path / "two", POPULATION)
    members = tmp_path / "two" / "members.jsonl"
    whole = members.read_text()
    members.write_text(whole.splitlines()[0] + "\n")
    with pytest.raises(UserError, match=r"has 1 networks, population\.json says 2"):
        read_population(tmp_path / "two")
    members.write_text(whole + "{\n")
    with pytest.raises(UserError, match=r"members\.jsonl:3 cannot be understood"):
        read_population(tmp_path / "two")
