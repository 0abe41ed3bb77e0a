"""The runs that paths mean: run folders, folders of them, offline W&B runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from anynet_dist.report.run_record import RunRecord, read_run
from anynet_dist.report.wandb_files import is_wandb_folder, read_wandb
from anynet_dist.runs.folder import RunFolder
from anynet_dist.system.errors import UserError


def find_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """The records of all runs, in the order of the paths, each once; names that occur twice are made longer.

    Raises UserError where a path has no run.
    """
    found: dict[Path, RunRecord] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is not a folder: name a run folder, or a folder of runs")
        records = list(_runs_in(path))
        if not records:
            raise UserError(
                f"{path} holds no runs: a run folder has metrics.jsonl or config.yaml, an offline W&B run a"
                " file run-ID.wandb"
            )
        found |= {record.folder.resolve(): record for record in records}
    return _told_apart(list(found.values()))


def _runs_in(path: Path) -> Iterator[RunRecord]:
    """The run of the folder itself; else those of the folders in it, down to the second level."""
    if _is_run(path):
        yield read_run(path)
    elif is_wandb_folder(path):
        yield read_wandb(path)
    else:
        for folder in sorted([*path.glob("*/"), *path.glob("*/*/")]):
            if _is_run(folder):
                yield read_run(folder)
            elif is_wandb_folder(folder) and not _is_run(folder.parent) and not _is_run(folder.parent.parent):
                yield read_wandb(folder)


def _is_run(folder: Path) -> bool:
    files = RunFolder(folder)
    return files.metrics.is_file() or (files.config.is_file() and files.marker.is_file())


def _told_apart(records: list[RunRecord]) -> list[RunRecord]:
    names = [record.name for record in records]
    return [
        replace(record, name=f"{record.folder.resolve().parent.name}/{record.name}")
        if names.count(record.name) > 1
        else record
        for record in records
    ]
