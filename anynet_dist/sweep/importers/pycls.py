"""The sweep.json that pycls collects: a list of runs, each with its cfg, its complexity and records by epoch.

Of the records, test_ema_epoch (of the moving average) comes before test_epoch: lists epoch_ind, epoch_max,
top1_err and min_top1_err. pycls' BOT_MULS multiply the width; a bottleneck ratio divides it.
"""

from __future__ import annotations

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
from anynet_dist.system.errors import UserError

PARAMETERS = dict[str, float | str]
DESCRIBED = tuple[PARAMETERS, tuple[Stage, ...]]


def read(file: Path) -> Imported:
    """The runs of `file`; one that has not reached its last epoch is a network without a result."""
    runs = as_list(str(file), read_json(file))
    members, results = [], []
    for number, value in zip(number_ids(len(runs)), runs, strict=True):
        run = Record.of(f"{file}: run {int(number)}", value)
        members.append(_member(number, run))
        result = _result(number, run)
        if result is not None:
            results.append(result)
    unfinished = len(members) - len(results)
    return Imported(
        members=members,
        results=results,
        origin={"error": "lowest over the epochs", "unfinished": unfinished},
    )


def _member(number: str, run: Record) -> Member:
    cfg = run.record("cfg")
    kind = cfg.record("MODEL").text("TYPE")
    if kind not in KINDS:
        allowed = ", ".join(sorted(KINDS))
        raise UserError(f"{cfg.name('MODEL.TYPE')} must be one of {allowed}, not {shown(kind)}")
    section, describe = KINDS[kind]
    parameters, stages = describe(cfg.record(section))
    optim = Record.of(cfg.name("OPTIM"), cfg.values.get("OPTIM", {}))
    for key, name in (("BASE_LR", "lr"), ("WEIGHT_DECAY", "wd"), ("MAX_EPOCH", "epochs")):
        if key in optim:
            parameters[name] = optim.number(key)
    complexity = run.record("complexity").complexity() if "complexity" in run else {}
    return Member(id=number, parameters=parameters, complexity=complexity, stages=stages)


def _result(number: str, run: Record) -> Result | None:
    """The lowest error, as pycls' analysis takes it; None before the last epoch."""
    records = next((key for key in ("test_ema_epoch", "test_epoch") if key in run), None)
    if records is None:
        return None
    tests = run.record(records)
    epochs, last = tests.numbers("epoch_ind"), tests.numbers("epoch_max")
    if epochs[-1] < last[-1]:
        return None
    lowest = min(tests.numbers("min_top1_err", *ERROR_RANGE))
    errors = tests.numbers("top1_err", *ERROR_RANGE) if "top1_err" in tests else []
    check_lengths(tests, {"epoch_ind": epochs, "top1_err": errors or None})
    return Result(id=number, errors=(lowest,), curve=tuple(zip(epochs, errors, strict=False)))


def _anynet(cfg: Record) -> DESCRIBED:
    block = cfg.values.get("BLOCK_TYPE", "res_bottleneck_block")
    depths, widths = cfg.counts("DEPTHS"), cfg.counts("WIDTHS")
    muls = cfg.numbers("BOT_MULS", *MULTIPLIERS) if cfg.values.get("BOT_MULS") else None
    groups = cfg.counts("GROUP_WS") if cfg.values.get("GROUP_WS") else None
    check_lengths(cfg, {"DEPTHS": depths, "WIDTHS": widths, "BOT_MULS": muls, "GROUP_WS": groups})
    ratios = [1 / mul for mul in muls] if muls else None
    parameters = {
        **numbered("depth", depths),
        **numbered("width", widths),
        **numbered("bottleneck_ratio", ratios or ()),
        **numbered("group_width", groups or ()),
    }
    return parameters, stages_of(str(block), depths, widths, ratios, groups)


def _regnet(cfg: Record) -> DESCRIBED:
    from anynet_dist.models.regnet import compatible_widths, regnet_stages  # imports torch

    depth, w0 = cfg.count("DEPTH"), cfg.count("W0")
    wa, wm = cfg.number("WA"), cfg.number("WM")
    ratio, group = 1 / cfg.number("BOT_MUL", *MULTIPLIERS), cfg.count("GROUP_W")
    try:
        regnet = regnet_stages(w0=w0, wa=wa, wm=wm, depth=depth)
    except UserError as error:
        raise UserError(f"{cfg.where}: {error}") from None
    count = len(regnet.depths)
    ratios = [ratio] * count
    widths, groups = compatible_widths(regnet.widths, ratios, [group] * count)
    parameters: PARAMETERS = {"w0": w0, "wa": wa, "wm": wm, "depth": depth}
    parameters |= {"bottleneck_ratio": ratio, "group_width": group}
    block = str(cfg.values.get("BLOCK_TYPE", "res_bottleneck_block"))
    return parameters, stages_of(block, regnet.depths, widths, ratios, groups)


def _effnet(cfg: Record) -> DESCRIBED:
    depths, widths, expansions = cfg.counts("DEPTHS"), cfg.counts("WIDTHS"), cfg.numbers("EXP_RATIOS")
    check_lengths(cfg, {"DEPTHS": depths, "WIDTHS": widths, "EXP_RATIOS": expansions})
    parameters = {
        **numbered("depth", depths),
        **numbered("width", widths),
        **numbered("expansion", expansions),
    }
    return parameters, stages_of("mbconv", depths, widths)


KINDS: dict[str, tuple[str, Any]] = {
    "anynet": ("ANYNET", _anynet),
    "regnet": ("REGNET", _regnet),
    "effnet": ("EN", _effnet),
}
