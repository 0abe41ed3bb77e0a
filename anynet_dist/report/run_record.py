"""A run as its folder tells of it, for reports: whatever is missing or damaged is left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from anynet_dist.config.schema import Config
from anynet_dist.models.complexity import network_complexity
from anynet_dist.models.spec import NetworkSpec
from anynet_dist.models.vocabulary import network_spec
from anynet_dist.report.findings import Findings, read_findings
from anynet_dist.runs.folder import RunFolder
from anynet_dist.system.errors import UserError

Record = dict[str, Any]
NOT_A_METRIC = ("loss", "count", "not_finite", "top5")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything that a report shows of one run."""

    name: str
    folder: Path
    state: str = "unknown"
    """`running`, `stopped`, `finished`, `pruned`, `failed`; `unknown` where nothing says so."""
    records: list[Record] = field(default_factory=list)
    """The log: training records, with `train/loss`, and evaluations, with `val/loss` or `test/loss`."""
    config: dict[str, Any] = field(default_factory=dict)
    """By dotted key."""
    environment: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    stages: list[list[Any]] = field(default_factory=list)
    """[block, depth, width, bottleneck ratio, group width] of each stage."""
    complexity: dict[str, float] = field(default_factory=dict)
    """flops (multiply-adds), params and acts for one image, as far as they can be counted."""
    findings: Findings | None = None
    pictures: tuple[Path, ...] = ()

    @cached_property
    def metric(self) -> str:
        """The score by which the run is measured: top1, or that of the run's own task."""
        keys = self.training[0] if self.training else {}
        names = [key.removeprefix("train/") for key in keys if key.startswith("train/")]
        return next((name for name in names if name not in NOT_A_METRIC), "top1")

    @property
    def started(self) -> float:
        """When the first record was written, in seconds since 1970; 0 where nothing says so."""
        return float(self.records[0].get("time") or 0.0) if self.records else 0.0

    @cached_property
    def training(self) -> list[Record]:
        """The training records."""
        return [record for record in self.records if "train/loss" in record]

    def evaluations(self, split: str) -> list[Record]:
        """The evaluations on a split."""
        return [record for record in self.records if f"{split}/loss" in record]

    def best(self, split: str) -> tuple[float, int] | None:
        """The best score on a split and its epoch; that of the moving average where the run has one."""
        found = [
            (float(score), int(record["epoch"]))
            for record in self.evaluations(split)
            if (score := self.score(record, split)) is not None
        ]
        return max(found, key=lambda pair: pair[0]) if found else None

    def score(self, record: Record, split: str) -> float | None:
        """The score of an evaluation by which checkpoints are chosen."""
        value = record.get(f"{split}/ema_{self.metric}", record.get(f"{split}/{self.metric}"))
        return None if value is None else float(value)


def read_run(folder: Path, state: str | None = None) -> RunRecord:
    """The record of a run folder; `state` takes the place of what status.json says.

    Raises UserError where the folder holds no run.
    """
    files = RunFolder(folder)
    records = _read_records(files.metrics)
    config = flat(_read(files.config, _load_yaml))
    if not records and not config:
        raise UserError(f"{folder} holds no run: it has neither {files.metrics.name} nor {files.config.name}")
    status = _read(files.status, json.loads)
    stages, complexity = network_of(_read(files.description, json.loads))
    return RunRecord(
        name=folder.resolve().name,
        folder=folder,
        state=state or str(status.get("state", "unknown")),
        records=records,
        config=config,
        environment=_read(files.environment, json.loads),
        status=status,
        stages=stages,
        complexity=complexity,
        findings=read_findings(files.findings),
        pictures=tuple(picture for picture in files.pictures if picture.is_file()),
    )


def default_config() -> dict[str, Any]:
    """The options by dotted key as they are when nothing is set."""
    return flat(asdict(Config()))


def config_differences(runs: list[RunRecord]) -> dict[str, list[Any]]:
    """The options in which runs differ, with the value of each; of a single run, what differs from the
    defaults, with both."""
    columns = [run.config for run in runs]
    if len(columns) == 1:
        columns.insert(0, default_config())
    keys = dict.fromkeys(key for column in columns for key in column)
    unlike = {key: [column.get(key) for column in columns] for key in keys if not key.startswith("run.")}
    return {key: values for key, values in unlike.items() if any(each != values[0] for each in values)}


def _load_yaml(text: str) -> Any:
    # The loader in C, where there is one, is ten times as fast.
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506


def _read_records(file: Path) -> list[Record]:
    """All whole lines of a log: a running one's last line may not be."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def _read(file: Path, parse: Any) -> dict[str, Any]:
    try:
        found = parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Sections and options by dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value and not key.endswith("options"):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return found


def network_of(description: Mapping[str, Any]) -> tuple[list[list[Any]], dict[str, float]]:
    """Stages and complexity; nothing where the parts come from a plug-in, which is not run for a report."""
    try:
        spec = network_spec(**description["model"])
        found = network_complexity(spec, description["resolution"])
    except (UserError, KeyError, TypeError, ValueError):
        return [], {}
    counts = {"flops": found.flops, "params": found.params, "acts": found.acts}
    return _stages(spec), {name: float(value) for name, value in counts.items() if value is not None}


def _stages(spec: NetworkSpec) -> list[list[Any]]:
    return [
        [stage.block_type, stage.depth, stage.width, stage.bottleneck_ratio, stage.group_width]
        for stage in spec.stages
    ]
