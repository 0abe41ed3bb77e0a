"""The report of populations: what it shows, what it refuses, and that it works in a browser by itself."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anynet_dist.cli import main
from anynet_dist.sweep.population import Population, write_population
from anynet_dist.sweep.report import write_pictures, write_report, write_tables
from anynet_dist.sweep.statistics import compare, fit_quantised_linear, trained_errors
from anynet_dist.system.errors import UserError
from tests.browser import open_in_browser
from tests.sweep.conftest import made_up

TRIES = """
const text = id => document.getElementById(id).textContent;
const column = i => [...document.querySelectorAll("#networks tbody tr")].map(r => r.children[i].textContent);
const click = i => document.querySelectorAll("#networks thead button")[i].click();
seen.first = column(2);
click(2); seen.reversed = column(2);
click(1); seen.names = column(1);
const search = document.getElementById("search");
search.value = "narrow depth1=3"; search.dispatchEvent(new Event("input"));
seen.found = column(0); seen.count = text("count");
document.querySelector("#networks tbody tr").click();
seen.details = text("details"); seen.shown = !document.getElementById("details").hidden;
const select = document.getElementById("column");
select.value = "width2"; select.dispatchEvent(new Event("change"));
seen.scatter = text("dependence");
seen.charts = document.querySelectorAll("figure svg").length;
seen.title = document.title; seen.verdicts = text("verdicts");
"""


def in_browser(page: Path) -> dict[str, Any]:
    """What a browser sees of the page, sorted, searched and clicked."""
    return open_in_browser(page, TRIES)


@pytest.mark.slow
def test_the_page_works_in_a_browser(two: list[Population], tmp_path: Path) -> None:
    write_report(two, tmp_path / "report.html")
    seen = in_browser(tmp_path / "report.html")
    assert seen["problems"] == []
    assert seen["title"] == "wide, narrow"
    errors = sorted(result.error for population in two for result in population.results.values())
    assert seen["first"] == [f"{error:.2f}" for error in errors]
    assert seen["reversed"] == seen["first"][::-1]
    assert seen["names"] == sorted(seen["names"])
    wanted = [member for member in two[1].members if member.parameters["depth1"] == 3]
    assert seen["found"] == ["narrow"] * len(wanted)
    assert seen["count"] == f"{len(wanted)} of 128 networks"
    assert seen["shown"]
    assert f"narrow {wanted[0].id}" in seen["details"]
    assert "stage 1: 3 x bottleneck" in seen["details"]
    assert "Error against width2" in seen["scatter"]
    assert seen["charts"] == 8
    assert (
        compare(trained_errors(two[0]), trained_errors(two[1]), ("wide", "narrow")).verdict
        in seen["verdicts"]
    )


@pytest.mark.slow
def test_names_cannot_run_as_script(two: list[Population], tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=problems.push('ran')>"
    first = replace(two[0].members[0], id=evil, parameters={evil: 3, "block_type": evil})
    results = {evil: replace(two[0].results["0000"], id=evil), **two[0].results}
    bad = replace(two[0], name=evil, members=(first, *two[0].members[1:]), results=results)
    write_report([bad, two[1]], tmp_path / "report.html")
    seen = in_browser(tmp_path / "report.html")
    assert seen["problems"] == []
    assert evil in seen["title"]


def test_the_page_needs_no_host(two: list[Population], tmp_path: Path) -> None:
    write_report(two, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert not re.findall(r"https?://|//[a-z]+\.", text)
    assert "default-src 'none'" in text


@pytest.mark.slow
def test_a_thousand_networks_make_a_page_of_less_than_2_mb(tmp_path: Path) -> None:
    write_report([made_up("a", 500, 0), made_up("b", 500, 1)], tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 2_000_000


def test_searched_populations_stay_out_of_distributions(two: list[Population], tmp_path: Path) -> None:
    searched = made_up("found", 20, 2, kind="searched")
    figures = write_report([*two, searched], tmp_path / "report.html").data
    wide, _, found = figures["populations"]
    assert "edf" in wide
    assert not {"edf", "search", "ranges", "correlations", "normalised"} & set(found)
    assert found["pareto"]
    assert [(each["a"], each["b"]) for each in figures["comparisons"]] == [("wide", "narrow")]


def test_the_fit_of_the_widths_is_a_parameter_too(two: list[Population], tmp_path: Path) -> None:
    figures = write_report(two, tmp_path / "report.html").data
    shown, member = figures["populations"][0], two[0].members[3]
    assert shown["members"][3]["p"]["e_fit"] == fit_quantised_linear(member.stages).e_fit
    assert {"low", "median", "high"} < set(shown["ranges"]["e_fit"])


def test_the_tables_hold_what_the_page_shows(two: list[Population], tmp_path: Path) -> None:
    figures = write_report(two, tmp_path / "report.html")
    write_tables(two, figures, tmp_path / "tables")
    with open(tmp_path / "tables" / "members.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 128
    member, row = two[1].members[5], rows[64 + 5]
    assert (row["population"], row["id"], row["width2"]) == (
        "narrow",
        "0005",
        str(member.parameters["width2"]),
    )
    assert float(row["flops"]) == member.complexity["flops"]
    assert float(row["error"]) == pytest.approx(two[1].results["0005"].error, rel=1e-5)
    statistics = json.loads((tmp_path / "tables" / "statistics.json").read_text())
    assert statistics["populations"][0]["median"] == float(np.median(trained_errors(two[0])))
    assert statistics["comparisons"][0]["ks"] == compare(trained_errors(two[0]), trained_errors(two[1])).ks


@pytest.mark.slow
def test_pictures_are_drawn(two: list[Population], tmp_path: Path) -> None:
    write_pictures(write_report(two, tmp_path / "report.html"), tmp_path / "pictures")
    names = {"edf.png", "normalised_edf.png", "pareto.png", "scatter_flops.png"}
    assert {file.name for file in (tmp_path / "pictures").iterdir()} == names
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in (tmp_path / "pictures").iterdir())


def test_what_cannot_be_reported_is_refused(two: list[Population], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two populations are called 'wide'"):
        write_report([two[0], two[0]], tmp_path / "report.html")
    with pytest.raises(UserError, match="wide: no member has been trained yet"):
        write_report([replace(two[0], results={})], tmp_path / "report.html")


def test_the_command_writes_the_page_and_says_the_verdict(
    two: list[Population], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for population in two:
        folders.append(str(tmp_path / population.name))
        write_population(Path(folders[-1]), population)
    out = ["--out", str(tmp_path / "report.html"), "--tables", str(tmp_path / "tables")]
    assert main(["sweep", "report", *folders, *out]) == 0
    assert "wide and narrow: The distributions of error differ" in capsys.readouterr().out
    assert (tmp_path / "tables" / "members.csv").exists()
    assert main(["sweep", "report", *folders, *out]) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.slow
def test_a_summary_run_in_wandb_has_tables_and_plots(two: list[Population], tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    folders = []
    for population in two:
        folders.append(str(tmp_path / population.name))
        write_population(Path(folders[-1]), population)
    words = ["--out", str(tmp_path / "report.html"), "--pictures", str(tmp_path / "pictures")]
    assert (
        main(["sweep", "report", *folders, *words, "--wandb", "offline", "--wandb-project", "explore"]) == 0
    )
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    tables = [json.loads(file.read_text()) for file in run.rglob("*.table.json")]
    networks = next(table for table in tables if "network" in table["columns"])
    assert len(networks["data"]) == 128
    best = two[1].results["0007"].error
    row = next(row for row in networks["data"] if row[:3] == ["narrow", "sampled", "0007"])
    assert row[3] == pytest.approx(best, rel=1e-5)
    verdicts = next(table for table in tables if "verdict" in table["columns"])
    assert verdicts["data"][0][:2] == ["wide", "narrow"]
    assert len(list(run.rglob("*.png"))) == 4
