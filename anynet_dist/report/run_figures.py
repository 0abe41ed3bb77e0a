"""What a report of runs shows, as plain numbers and texts: computed once for page and tables."""

from __future__ import annotations

import base64
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from anynet_dist.report.run_record import Record, RunRecord, config_differences

CHARTS = (
    ("lr", "learning rate"),
    ("grad_norm", "gradient norm"),
    ("images_per_second", "images/s"),
    ("data_wait", "share of time waiting for data"),
    ("peak_memory_gib", "peak memory (GiB)"),
    ("mfu", "model FLOPs utilisation"),
)
POINTS = 5_000
"""Of a curve, in all runs of the page together: a run has a dozen of curves."""
FEWEST_POINTS, MOST_POINTS = 30, 400
PICTURE_BYTES = 600_000
"""Pictures of the whole page, at most; each run's report has its own."""


def figures_of(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Everything that the page shows of the runs."""
    points = max(FEWEST_POINTS, min(MOST_POINTS, POINTS // len(runs)))
    shown = [_run(run, points) for run in runs]
    left = PICTURE_BYTES
    for run, figures in zip(runs, shown, strict=True):
        figures["pictures"], left = _pictures(run.pictures, left)
    differences = [
        [key, *(_value(value) for value in values)] for key, values in config_differences(list(runs)).items()
    ]
    head = ["default", runs[0].name] if len(runs) == 1 else [run.name for run in runs]
    return {"runs": shown, "differences": {"head": head, "rows": differences}}


def _run(run: RunRecord, points: int) -> dict[str, Any]:
    return {
        "name": run.name,
        "state": run.state,
        "reason": run.status.get("reason"),
        "metric": run.metric,
        "summary": summary(run),
        "places": _places(run, points),
        "curves": _curves(run, points),
        "restarts": _restarts(run),
        "stages": run.stages,
        "complexity": run.complexity,
        "findings": _findings(run),
        "environment": _environment(run),
        "command": _command(run),
    }


def summary(run: RunRecord) -> dict[str, Any]:
    """A run in one row: how it stands, its best scores, and what they cost."""
    last = run.records[-1] if run.records else {}
    best, tested = run.best("val"), run.best("test")
    speeds = [value for record in run.training if (value := record.get("images_per_second"))]
    return {
        "state": run.state,
        "epoch": max((int(record["epoch"]) for record in run.records if "epoch" in record), default=None),
        "step": last.get("step"),
        "val": best and best[0],
        "best epoch": best and best[1],
        "test": tested and tested[0],
        "train loss": run.training[-1]["train/loss"] if run.training else None,
        "images/s": round(median(speeds), 1) if speeds else None,
        "hours": _hours(run, run.records)[-1] if run.records else None,
        **run.complexity,
        "processes": run.environment.get("world_size"),
        "device": run.environment.get("device"),
        "precision": run.environment.get("precision"),
    }


def _curves(run: RunRecord, points: int) -> dict[str, Any]:
    """Curves by chart, then by series: the places on the axes of `_places`, in values."""
    training, validation = _thinned(run.training, points), _thinned(run.evaluations("val"), points)
    curves: dict[str, Any] = {}
    for chart, name in (("loss", "loss"), ("score", run.metric)):
        curves[chart] = {
            "training": _values(training, f"train/{name}"),
            "validation": _values(validation, f"val/{name}"),
            "average": _values(validation, f"val/ema_{name}"),
        }
    for key, _ in CHARTS:
        curves[key] = {"training": _values(training, key)}
    return {chart: {kind: line for kind, line in lines.items() if line} for chart, lines in curves.items()}


def _places(run: RunRecord, points: int) -> dict[str, list[list[float]]]:
    """Steps, epochs and hours of the records that `_curves` shows, by series."""
    per_epoch = _steps_per_epoch(run)
    places = {
        kind: [
            [record["step"] for record in records],
            [_rounded(record["step"] / per_epoch) for record in records],
            _hours(run, records),
        ]
        for kind, records in (
            ("training", _thinned(run.training, points)),
            ("validation", _thinned(run.evaluations("val"), points)),
        )
    }
    return places | {"average": places["validation"]}


def _values(records: Sequence[Record], key: str) -> list[float | None]:
    """None where a record has no number; nothing at all where none has."""
    values = [_rounded(record[key]) if _finite(record.get(key)) else None for record in records]
    return values if any(value is not None for value in values) else []


def _thinned(records: Sequence[Record], points: int) -> list[Record]:
    chosen = np.unique(np.linspace(0, len(records) - 1, min(points, len(records))).round().astype(int))
    return [records[place] for place in chosen]


def _steps_per_epoch(run: RunRecord) -> float:
    """Of the first whole epoch that the log shows."""
    for record in run.evaluations("val"):
        if record.get("epoch"):
            return float(record["step"]) / float(record["epoch"])
    epochs: dict[int, int] = {}
    for record in run.training:
        epochs[record["epoch"]] = max(record["step"], epochs.get(record["epoch"], 0))
    return max(1.0, float(epochs[min(epochs)])) if epochs else 1.0


def _restarts(run: RunRecord) -> list[list[float]]:
    """[step, epoch, hours] of each restart."""
    per_epoch, hours = _steps_per_epoch(run), _hours(run, run.records)
    found = []
    for step in run.status.get("resumed_at", []):
        after = next((h for h, record in zip(hours, run.records, strict=True) if record["step"] > step), None)
        found.append([step, _rounded(step / per_epoch), after if after is not None else 0.0])
    return found


def _hours(run: RunRecord, records: Sequence[Record]) -> list[float]:
    """Since the run's first record."""
    times = (record.get("time") or run.started for record in records)
    return [_rounded((time - run.started) / 3600) for time in times]


def _findings(run: RunRecord) -> dict[str, Any] | None:
    found = run.findings
    if found is None:
        return None
    return {
        "split": found.split,
        "epoch": found.epoch,
        "classes": list(found.classes),
        "counts": [list(each) for each in found.counts],
        "mistakes": [
            {**vars(each), "name": Path(each.name).name if len(each.name) > 60 else each.name}
            for each in found.mistakes
        ],
    }


def _command(run: RunRecord) -> str:
    words = list(map(str, run.environment.get("command", [])))
    if words and Path(words[0]).name in ("__main__.py", "anynet"):
        words[0] = "anynet"
    return shlex.join(words)


def _environment(run: RunRecord) -> list[list[str]]:
    """What there was, as (name, text) pairs."""
    facts: dict[str, Any] = {}
    for key, value in sorted(run.environment.items(), key=lambda item: isinstance(item[1], dict)):
        if key == "command":
            continue
        if isinstance(value, dict):
            facts |= {f"{key} {name}": each for name, each in value.items()}
        else:
            facts[key] = value
    return [[name.replace("_", " "), _value(value)] for name, value in facts.items()]


def _pictures(paths: Sequence[Path], left: int) -> tuple[list[list[str]], int]:
    """(file name, data URI) of photographs, as long as there is room for them; the page draws the rest."""
    found = []
    for path in paths:
        if path.suffix != ".jpg" or path.stat().st_size > left:
            continue
        content = path.read_bytes()
        left -= len(content)
        found.append([path.name, f"data:image/jpeg;base64,{base64.b64encode(content).decode('ascii')}"])
    return found, left


def _value(value: Any) -> str:
    return "" if value is None else str(value)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
