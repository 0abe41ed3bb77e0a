"""The report of populations: one HTML page that needs nothing else, and the same as tables and pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from anynet_dist.report.html import PALETTE, assemble
from anynet_dist.report.pictures import new_figure, save
from anynet_dist.sweep.figures import Figures, figures_of
from anynet_dist.sweep.population import Population
from anynet_dist.sweep.report_text import DEFINITIONS
from anynet_dist.system.files import write_json, write_text


def write_report(populations: Sequence[Population], out: Path) -> Figures:
    """Write the page. Raises UserError where no network of a population has been trained."""
    figures = figures_of(populations)
    page = files("anynet_dist.sweep") / "page"
    write_text(out, assemble(page, figures.data | {"definitions": DEFINITIONS}))
    return figures


def write_tables(populations: Sequence[Population], figures: Figures, folder: Path) -> None:
    """Write members.csv, a row for each network, and statistics.json, all but the networks."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {"parameters": list[str](), "complexity": list[str]()}
    for population in populations:
        for member in population.members:
            for kind, known in names.items():
                known += [name for name in getattr(member, kind) if name not in known]
    text = io.StringIO()
    columns = [*names["complexity"], *names["parameters"]]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["population", "kind", "id", "error", "trainings", *columns])
    for population in populations:
        for member in population.members:
            result = population.results.get(member.id)
            values = {**member.parameters, **member.complexity}
            error = ("", "") if result is None else (f"{result.error:.6g}", len(result.errors))
            row = [population.name, population.kind, member.id, *error]
            writer.writerow([*row, *(values.get(name, "") for name in columns)])
    write_text(folder / "members.csv", text.getvalue())
    kept: dict[str, Any] = {**figures.data}
    kept["populations"] = [
        {name: value for name, value in each.items() if name != "members"} for each in kept["populations"]
    ]
    write_json(folder / "statistics.json", kept)


def write_pictures(figures: Figures, folder: Path) -> None:
    """Write edf.png, normalised_edf.png, scatter_flops.png and pareto.png, as far as there is something to
    show."""
    folder.mkdir(parents=True, exist_ok=True)
    populations = figures.data["populations"]
    for name, label, key in (
        ("edf", "share of networks with at most this error", "edf"),
        ("normalised_edf", "the same, with equal flops", "normalised"),
        ("pareto", "multiply-adds", "pareto"),
        ("scatter_flops", "multiply-adds", "flops"),
    ):
        if any(_points(each, key) for each in populations):
            _picture(populations, key, label, folder / f"{name}.png")


def _points(population: dict[str, Any], key: str) -> list[list[float]]:
    if key in ("edf", "normalised"):
        return list(population.get(key) or [])
    points = [
        [member["c"]["flops"], member["e"]]
        for member in population["members"]
        if member["e"] is not None and "flops" in member["c"]
    ]
    if key == "flops":
        return points
    front = set(population["pareto"])
    ids = [m["id"] for m in population["members"] if m["e"] is not None and "flops" in m["c"]]
    return sorted(point for point, name in zip(points, ids, strict=True) if name in front)


def _picture(populations: Sequence[dict[str, Any]], key: str, label: str, out: Path) -> None:
    figure = new_figure(5, 3.4, dpi=200)
    axes = figure.subplots()
    for number, population in enumerate(populations):
        points = _points(population, key)
        if not points:
            continue
        x, y = zip(*points, strict=True)
        style: dict[str, Any] = {
            "color": PALETTE[number % len(PALETTE)],
            "label": f"{population['name']} (n = {population['trained']})",
        }
        dashes = ("-", "--", ":", "-.")[number % 4]
        if key in ("edf", "normalised"):
            axes.step(x, y, where="post", linestyle=dashes, **style)
        elif key == "pareto":
            axes.plot(x, y, marker=".", linestyle=dashes, **style)
        else:
            axes.scatter(x, y, s=8, marker="os^D"[number % 4], alpha=0.7, **style)
    errors_below = key in ("edf", "normalised")
    axes.set_xlabel("top-1 error (%)" if errors_below else label)
    axes.set_ylabel(label if errors_below else "top-1 error (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
    save(figure, out)
