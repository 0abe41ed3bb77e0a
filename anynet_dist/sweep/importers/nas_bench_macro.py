"""NAS-Bench-Macro: 6,561 networks of eight layers, each trained three times on CIFAR-10.

An object; its keys are eight digits, one per layer: 0 (absent), 1 (MB3, expansion 3) or 2 (MB6). A value has
test_acc (percent, one number per training), params and flops.
"""

from __future__ import annotations

import re
from pathlib import Path

from anynet_dist.sweep.importers.records import ERROR_RANGE, Imported, Record, read_json, shown
from anynet_dist.sweep.population import Member, Result, Stage
from anynet_dist.system.errors import UserError

BLOCKS = {1: "mb3", 2: "mb6"}


def read(file: Path) -> Imported:
    """The networks of `file`; raises UserError."""
    networks = Record.of(str(file), read_json(file))
    members, results = [], []
    for key in networks.values:
        if not re.fullmatch("[012]{8}", key):
            raise UserError(f"{file}: {shown(key)} is no network: eight digits from 0 to 2 are")
        record = Record.of(f"{file}: network {key}", networks.get(key))
        members.append(_member(key, record))
        accuracies = record.numbers("test_acc", *ERROR_RANGE)
        results.append(Result(id=key, errors=tuple(100 - accuracy for accuracy in accuracies)))
    return Imported(members=members, results=results, origin={"dataset": "cifar10"})


def _member(key: str, record: Record) -> Member:
    layers = [int(digit) for digit in key]
    parameters: dict[str, float | str] = {f"layer{index}": layer for index, layer in enumerate(layers, 1)}
    return Member(
        id=key,
        parameters={**parameters, "depth": sum(layer > 0 for layer in layers)},
        complexity={measure: record.number(measure, low=0) for measure in ("flops", "params")},
        stages=tuple(Stage(block=BLOCKS[layer], depth=1) for layer in layers if layer),
    )
