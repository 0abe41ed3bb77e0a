"""Offline W&B runs as records, for a run of which only these files were kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anynet_dist.report.run_record import Record, RunRecord, flat, network_of
from anynet_dist.runs.trackers.view import record_key
from anynet_dist.runs.trackers.wandb_files import payloads
from anynet_dist.system.errors import UserError
from anynet_dist.system.install import install_command


def is_wandb_folder(folder: Path) -> bool:
    """Whether it is the folder of an offline W&B run, or holds such folders."""
    return bool(_files(folder))


def read_wandb(folder: Path) -> RunRecord:
    """The record of the offline W&B run of a folder; one that was resumed has a file for each start.

    Raises UserError where wandb is not installed, which knows how its records are to be read.
    """
    about: dict[str, Any] = {}
    config: dict[str, Any] = {}
    records: list[Record] = []
    for file in _files(folder):
        started = True
        for message in _messages(file):
            if message.HasField("run"):
                about["name"] = message.run.display_name or message.run.run_id
                config |= _items(message.run.config.update)
            elif message.HasField("config"):
                config |= _items(message.config.update)
            elif message.HasField("exit"):
                about["state"] = "finished" if message.exit.exit_code == 0 else "failed"
            elif message.HasField("history"):
                record = _record(message.history)
                if started and "step" in record:  # what the earlier start logged beyond is logged again
                    records = [each for each in records if each.get("step", 0) < record["step"]]
                    started = False
                records.append(record)
    options = {name: value for name, value in config.items() if not name.startswith("_")}
    model, data = options.get("model"), options.get("data")
    stages, complexity = network_of({"model": _set(model), "resolution": (data or {}).get("eval_res")})
    return RunRecord(
        name=about.get("name", folder.name),
        folder=folder,
        state=about.get("state", "unknown"),
        records=[record for record in records if "step" in record],
        config=flat(options),
        environment=_metadata(folder),
        stages=stages,
        complexity=complexity,
    )


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("run-*.wandb")) or sorted(folder.glob("offline-run-*/run-*.wandb"))


def _messages(file: Path) -> Iterator[Any]:
    try:
        from wandb.proto import wandb_internal_pb2
    except ImportError:
        raise UserError(f"{file} can only be read where wandb is: {install_command('wandb')}") from None
    for payload in payloads(file.read_bytes()):
        message = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
        try:
            message.ParseFromString(payload)
        except Exception:  # protobuf's own kinds: damaged from here on
            return
        yield message


def _items(items: Any) -> dict[str, Any]:
    found = {}
    for item in items:
        try:
            found[".".join(item.nested_key) or item.key] = json.loads(item.value_json)
        except ValueError:
            continue
    return found


def _record(history: Any) -> Record:
    """An entry under the names of the run's own log."""
    values = _items(history.item)
    record = {record_key(name): value for name, value in values.items()}
    step = values.get("global_step")
    if isinstance(step, int | float):
        record["step"] = int(step)
    record["time"] = values.get("_timestamp", 0.0)
    return record


def _metadata(folder: Path) -> dict[str, Any]:
    for file in (_files(folder)[-1].parent / "files").glob("wandb-metadata.json"):
        try:
            found = json.loads(file.read_bytes())
        except (OSError, ValueError):
            continue
        known = {name: found[name] for name in ("host", "os", "python", "gpu", "cpu_count") if name in found}
        return known | {"command": ["anynet", *found.get("args", [])]}
    return {}


def _set(model: dict[str, Any] | None) -> dict[str, Any]:
    """The options of the network that have a value."""
    options = {k: v for k, v in (model or {}).items() if v is not None and k not in ("pretrained", "freeze")}
    regnet = {key: value for key, value in (options.get("regnet") or {}).items() if value is not None}
    return {**options, "regnet": regnet or None}
