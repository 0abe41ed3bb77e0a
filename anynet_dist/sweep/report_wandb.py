"""A report as one summary run in Weights & Biases: the networks as a table, the plots, the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anynet_dist.runs.wandb_settings import DEFAULT_PROJECT
from anynet_dist.sweep.figures import Figures
from anynet_dist.system.errors import UserError
from anynet_dist.system.install import install_command

COLUMNS = ("population", "kind", "network", "error", "flops", "params", "acts")


def log_report(figures: Figures, pictures: Path | None, mode: str, project: str | None, folder: Path) -> None:
    """Start a run of job type `sweep-report`, fill it and end it; `mode` is online or offline.

    `pictures` is a folder of PNG files, `folder` the one below which offline records lie. Raises UserError
    where wandb is not installed, or does not start.
    """
    try:
        import wandb
    except ImportError:
        raise UserError(f"wandb is not installed: {install_command('wandb')}") from None
    populations = figures.data["populations"]
    try:
        run = wandb.init(
            project=project or DEFAULT_PROJECT,
            name=" vs ".join(each["name"] for each in populations),
            job_type="sweep-report",
            tags=["sweep"],
            mode="offline" if mode == "offline" else "online",
            dir=str(folder),
            config={"populations": {each["name"]: each["origin"] for each in populations}},
        )
    except Exception as error:  # of many kinds: a key, a server that is away
        raise UserError(f"Weights & Biases did not start: {error}; --wandb offline needs no server") from None
    parameters = _parameters(populations)
    run.log({"networks": wandb.Table([*COLUMNS, *parameters], _rows(populations, parameters))})
    curves = [each for each in populations if "edf" in each]
    if curves:
        table = wandb.Table(
            ["population", "error", "share"], [[e["name"], *p] for e in curves for p in e["edf"]]
        )
        run.log({"edf": wandb.plot.line(table, "error", "share", stroke="population", title="EDF of error")})
    if figures.data["comparisons"]:
        keys = ("a", "b", "ks", "p", "critical", "verdict")
        rows = [[each[key] for key in keys] for each in figures.data["comparisons"]]
        run.log({"comparisons": wandb.Table(list(keys), rows)})
    for file in sorted(pictures.glob("*.png")) if pictures else []:
        run.log({f"pictures/{file.stem}": wandb.Image(str(file))})
    for each in populations:
        run.summary[f"{each['name']}/lowest_error"] = each["min"]
        run.summary[f"{each['name']}/median_error"] = each["median"]
    run.finish()


def _parameters(populations: Sequence[dict[str, Any]]) -> list[str]:
    names = (name for each in populations for member in each["members"] for name in member["p"])
    return list(dict.fromkeys(names))


def _rows(populations: Sequence[dict[str, Any]], parameters: Sequence[str]) -> list[list[Any]]:
    return [
        [
            *(each["name"], each["kind"], member["id"], member["e"]),
            *(member["c"].get(measure) for measure in COLUMNS[4:]),
            # A column of W&B has one type; a parameter may be a number here and a name there.
            *(None if name not in member["p"] else str(member["p"][name]) for name in parameters),
        ]
        for each in populations
        for member in each["members"]
    ]
