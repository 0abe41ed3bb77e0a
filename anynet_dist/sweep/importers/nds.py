"""NDS, the networks of "On Network Design Spaces for Visual Recognition" (Radosavovic et al., 2019).

A list of jobs, or an object of such lists (top and mid). A job has params, flops, net, optim, rng_seed,
min_test_top1 (error in percent) and test_ep_top1 (one number per epoch). net has block_type, ds, ws and, if
the block has them, bot_muls and num_gs, one entry per stage; one of cells has genotype, depth and width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anynet_dist.sweep.importers.records import (
    ERROR_RANGE,
    MULTIPLIERS,
    Imported,
    Record,
    as_list,
    check_lengths,
    number_ids,
    numbered,
    read_json,
    shown,
    stages_of,
)
from anynet_dist.sweep.population import Member, Result, Stage

OPTIM = {"base_lr": "lr", "wd": "wd", "max_ep": "epochs"}
PARAMETERS = dict[str, float | str]


def read(file: Path) -> Imported:
    """The networks of `file`: jobs that differ in their seed only are trainings of one network."""
    trainings: dict[str, list[tuple[str, Record]]] = {}
    for part, job in _jobs(file):
        key = json.dumps([part, job.get("net"), job.get("optim")], sort_keys=True)
        trainings.setdefault(key, []).append((part, job))
    members, results = [], []
    for number, jobs in zip(number_ids(len(trainings)), trainings.values(), strict=True):
        members.append(_member(number, *jobs[0]))
        errors = tuple(job.number("min_test_top1", *ERROR_RANGE) for _, job in jobs)
        results.append(Result(id=number, errors=errors, curve=_curve(jobs[0][1])))
    return Imported(members=members, results=results, origin={"error": "lowest over the epochs"})


def _jobs(file: Path) -> Iterator[tuple[str, Record]]:
    content = read_json(file)
    parts: dict[str, Any] = content if isinstance(content, dict) else {"": content}
    for part, jobs in parts.items():
        where = f"{file}: {shown(part)}" if part else str(file)
        for index, job in enumerate(as_list(where, jobs)):
            yield part, Record.of(f"{where}[{index}]" if part else f"{file}: job {index}", job)


def _member(number: str, part: str, job: Record) -> Member:
    net, optim = job.record("net"), job.record("optim")
    parameters, stages = _staged(net) if "ds" in net else (_cell(net), ())
    parameters |= {name: optim.number(key) for key, name in OPTIM.items() if key in optim}
    if part:
        parameters["part"] = part
    complexity = {measure: job.number(measure, low=0) for measure in ("flops", "params")}
    return Member(id=number, parameters=parameters, complexity=complexity, stages=stages)


def _staged(net: Record) -> tuple[PARAMETERS, tuple[Stage, ...]]:
    block, depths, widths = net.text("block_type"), net.counts("ds", low=0), net.counts("ws")
    muls = net.numbers("bot_muls", *MULTIPLIERS) if net.values.get("bot_muls") else None
    groups = net.counts("num_gs") if net.values.get("num_gs") else None
    check_lengths(net, {"ds": depths, "ws": widths, "bot_muls": muls, "num_gs": groups})
    ratios = [1 / mul for mul in muls] if muls else None
    inner = [width / ratio for width, ratio in zip(widths, ratios or [1.0] * len(widths), strict=True)]
    group_widths = [max(1, round(w / g)) for w, g in zip(inner, groups, strict=True)] if groups else None
    parameters = {
        **numbered("depth", depths),
        **numbered("width", widths),
        **numbered("bottleneck_ratio", ratios or ()),
        **numbered("groups", groups or ()),
    }
    return parameters, stages_of(block, depths, widths, ratios, group_widths)


def _cell(net: Record) -> PARAMETERS:
    parameters: PARAMETERS = {key: net.number(key) for key in ("depth", "width")}
    return {**parameters, "genotype": json.dumps(net.get("genotype"), separators=(",", ":"))}


def _curve(job: Record) -> tuple[tuple[float, float], ...]:
    errors = job.numbers("test_ep_top1", *ERROR_RANGE) if "test_ep_top1" in job else []
    return tuple((epoch, error) for epoch, error in enumerate(errors, 1))
