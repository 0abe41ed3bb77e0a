"""The log of a run: records in metrics.jsonl; Weights & Biases and TensorBoard, by accelerate, show them."""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from torch import nn

from anynet_dist.config.schema import Config
from anynet_dist.system.errors import UserError
from anynet_dist.system.files import write_text
from anynet_dist.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

Record = dict[str, Any]


def check_trackers(config: Config) -> None:
    """Raise UserError where a tracker that the config asks for is not installed."""
    if config.tracking.wandb != "off":
        _require("wandb", "tracking.wandb")
    if config.tracking.tensorboard:
        _require("tensorboard", "tracking.tensorboard")


def build_trackers(config: Config, folder: RunFolder) -> list[GeneralTracker]:
    """accelerate's trackers for what the config asks for; they start when the run does."""
    trackers: list[GeneralTracker] = []
    if config.tracking.wandb != "off":
        trackers.append(_wandb_tracker(config, folder))
    if config.tracking.tensorboard:
        from accelerate.tracking import TensorBoardTracker

        trackers.append(TensorBoardTracker("tensorboard", folder.path))
    return trackers


def _wandb_tracker(config: Config, folder: RunFolder) -> GeneralTracker:
    from accelerate.tracking import WandBTracker

    # wandb keeps offline records in memory for 15 s unless told otherwise: a killed run would lose them.
    os.environ.setdefault("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "1")
    return WandBTracker(
        config.tracking.wandb_project,
        name=config.run.name,
        entity=config.tracking.wandb_entity,
        tags=config.tracking.tags,
        mode=config.tracking.wandb,
        dir=str(folder.path),
        id=_wandb_id(folder),
        resume="allow",
        config=asdict(config),
    )


def _require(package: str, option: str) -> None:
    if find_spec(package) is None:
        raise UserError(
            f"{option} needs {package}, which is not installed: pip install 'anynet-dist[{package}]'"
        )


def _wandb_id(folder: RunFolder) -> str:
    """One id for a run through all its restarts, kept in the run folder."""
    file = folder.path / "wandb" / "id"
    if not file.exists():
        write_text(file, secrets.token_hex(4))
    return file.read_text().strip()


class RunLog:
    """Appends records to metrics.jsonl and hands them to the trackers; silent on every rank but 0."""

    def __init__(self, folder: RunFolder, accelerator: Accelerator, config: Config, resume_step: int) -> None:
        self.accelerator = accelerator
        self.broken: set[str] = set()
        self.stream: TextIO | None = None
        if accelerator.is_main_process:
            drop_records_after(folder.metrics, resume_step)
            self.stream = folder.metrics.open("a", encoding="utf-8")
            accelerator.log_with = build_trackers(config, folder)
        accelerator.init_trackers("anynet")
        if accelerator.is_main_process:
            for tracker in accelerator.trackers:
                if tracker.name == "wandb":
                    tracker.tracker.define_metric("*", step_metric="global_step")

    def write(self, record: Record) -> None:
        """Log one record; it needs `step`, the number of global batches used."""
        if self.stream is None:
            return
        self.stream.write(json.dumps({"time": round(time.time(), 3), **record}) + "\n")
        self.stream.flush()
        values = {key: value for key, value in record.items() if isinstance(value, (int, float))}
        for tracker in self.accelerator.trackers:
            self._track(tracker, values, record["step"])

    def _track(self, tracker: GeneralTracker, values: Record, step: int) -> None:
        """Training outlives a tracker: the first failure is told, the rest of the run goes on without it."""
        if tracker.name in self.broken:
            return
        try:
            if tracker.name == "wandb":
                # wandb drops points below a resumed run's own step, so the step is a value like the others.
                tracker.log({**values, "global_step": step})
            else:
                tracker.log(values, step=step)
        except Exception as error:  # whatever a tracker raises must not end the run
            self.broken.add(tracker.name)
            logger.warning("%s failed and is left out from here on: %s", tracker.name, error)

    def close(self) -> None:
        """Finish the trackers and close the file."""
        for tracker in self.accelerator.trackers:
            if tracker.name not in self.broken:
                tracker.finish()
        self.accelerator.trackers.clear()
        if self.stream:
            self.stream.close()


def drop_records_after(file: Path, step: int) -> None:
    """Remove the records of steps that a resumed run does again, and a last line that was cut short."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["step"] <= step:
            kept.append(line + "\n")
    write_text(file, "".join(kept))


def read_records(file: Path) -> list[Record]:
    """All records of a metrics.jsonl."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def log_graph(accelerator: Accelerator, network: nn.Module, config_text: str, resolution: int) -> None:
    """Show the network's graph on an example input, and the config, in TensorBoard where it is on."""
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard" and accelerator.is_main_process:
            was_training = network.training
            device = next(network.parameters()).device
            example = torch.zeros(1, 3, resolution, resolution, device=device)
            tracker.tracker.add_graph(network.eval(), example)
            network.train(was_training)
            tracker.tracker.add_text("config", f"```yaml\n{config_text}\n```")
