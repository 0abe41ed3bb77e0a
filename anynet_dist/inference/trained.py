"""A trained network with everything its run left about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anynet_dist.models.anynet import AnyNet
from anynet_dist.runs.file_names import AVERAGE
from anynet_dist.runs.folder import RunFolder
from anynet_dist.runs.metrics_log import read_records
from anynet_dist.runs.network_file import NetworkDescription, find_weights, load_network, read_facts
from anynet_dist.runs.progress import PROGRESS, read_progress

SPLITS = ("test", "val")


@dataclass(frozen=True)
class TrainedNetwork:
    """A network in evaluation mode on the CPU, and where it comes from."""

    network: AnyNet
    description: NetworkDescription
    file: Path
    """The weights it was read from."""
    facts: dict[str, Any]
    """What the file records about it, such as `epoch` and `test/top1`; empty for a checkpoint."""
    run: RunFolder | None
    """The run the file lies in, if it lies in one."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image the network is evaluated on."""
        side = self.description.resolution
        return self.network.spec.stem.width_in, side, side

    @property
    def export_folder(self) -> Path:
        """Where exports go by default: `export` in the run folder, or beside the file."""
        return (self.run.path if self.run else self.file.parent) / "export"


def open_trained(path: str | Path, weights: str = "auto", allow_plugins: bool = False) -> TrainedNetwork:
    """The network of a run folder, a checkpoint folder or a weight file, chosen as `load_network` does.

    Raises UserError as that does.
    """
    file = find_weights(Path(path), weights)
    network, description = load_network(file, allow_plugins=allow_plugins)
    return TrainedNetwork(
        network.requires_grad_(False), description, file, read_facts(file), run_folder_above(file)
    )


def run_folder_above(file: Path) -> RunFolder | None:
    """The run folder in which a run's or a checkpoint's weight file lies."""
    folders = (RunFolder(folder) for folder in file.resolve().parents[:3])
    return next((folder for folder in folders if folder.config.is_file()), None)


def scores_of(trained: TrainedNetwork) -> dict[str, dict[str, float]]:
    """top1, top5 and loss by split, of just these weights: from the run's log, else from the file itself."""
    found = dict(trained.facts)
    for record in _records(trained):
        if "train/loss" not in record and record["epoch"] == _epoch(trained):
            found |= record
    averaged = trained.facts.get("weights") == "ema" or trained.file.name == AVERAGE
    prefix = "ema_" if averaged else ""
    return {
        split: {score: found[f"{split}/{prefix}{score}"] for score in ("top1", "top5", "loss")}
        for split in SPLITS
        if f"{split}/{prefix}top1" in found
    }


def _records(trained: TrainedNetwork) -> list[dict[str, Any]]:
    if trained.run is None or not trained.run.metrics.is_file():
        return []
    return read_records(trained.run.metrics)


def _epoch(trained: TrainedNetwork) -> int | None:
    """The epoch after which the network was saved."""
    if (trained.file.parent / PROGRESS).is_file():
        progress = read_progress(trained.file.parent)
        return progress.epoch + bool(progress.step_in_epoch)
    return trained.facts.get("epoch")
