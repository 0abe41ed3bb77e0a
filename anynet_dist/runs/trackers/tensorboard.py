"""TensorBoard: curves, graph, texts, pictures and the hyperparameters with what they gave, in one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from anynet_dist.config.dump import dump_config
from anynet_dist.config.schema import Config
from anynet_dist.runs.folder import RunFolder
from anynet_dist.runs.trackers.base import (
    Entry,
    Outcome,
    Row,
    RunFacts,
    Tracker,
    flat_options,
    markdown_table,
    open_picture,
)

NOT_HYPERPARAMETERS = ("run.", "tracking.", "checkpoint.", "derived.versions.")
RESULTS = ("best/", "val/", "test/")


class TensorBoard(Tracker):
    """Writes into `tensorboard/` of the run folder.

    What a killed run wrote from `step` on, where it is resumed, is marked as void: TensorBoard does not show
    it, and it is written again.
    """

    name = "tensorboard"

    def __init__(self, config: Config, folder: RunFolder, facts: RunFacts, step: int) -> None:
        from accelerate.tracking import TensorBoardTracker

        has_earlier = any((folder.path / "tensorboard").glob("events.out.*"))
        self.first_step = step if has_earlier else 0
        purge = {"purge_step": step} if has_earlier else {}
        self.tracker = TensorBoardTracker("tensorboard", folder.path, **purge)
        self.tracker.start()
        self.writer = self.tracker.tracker
        self.options = flat_options(config, facts)
        self.results: set[str] = set()
        if self.first_step == 0:
            self._show_texts(config, folder, facts)

    def _show_texts(self, config: Config, folder: RunFolder, facts: RunFacts) -> None:
        self.writer.add_text("config", f"```yaml\n{dump_config(config)}\n```", 0)
        if config.tracking.notes:
            self.writer.add_text("notes", config.tracking.notes, 0)
        if folder.environment.exists():
            environment = json.loads(folder.environment.read_bytes())
            self.writer.add_text("environment", f"```json\n{json.dumps(environment, indent=2)}\n```", 0)
        if facts.network:
            self.writer.add_text("network", facts.network, 0)

    def catch_up(self, kept: Sequence[Entry]) -> None:
        """As in Tracker: those that were marked as void, or were never written."""
        for entry in kept:
            self._note_results(entry)
            if entry.step >= self.first_step:
                self.log(entry)

    def log(self, entry: Entry) -> None:
        """As in Tracker."""
        self._note_results(entry)
        self.tracker.log(entry.values, step=entry.step)

    def _note_results(self, entry: Entry) -> None:
        self.results |= {key for key in entry.values if key.startswith(RESULTS)}

    def show_pictures(self, pictures: Mapping[str, Path], step: int) -> None:
        """As in Tracker."""
        for name, file in pictures.items():
            self.writer.add_image(name, np.asarray(open_picture(file)), step, dataformats="HWC")

    def show_table(self, name: str, columns: Sequence[str], rows: Sequence[Row], step: int) -> None:
        """As in Tracker: as a text."""
        self.writer.add_text(name, markdown_table(columns, rows), step)

    def watch(self, network: nn.Module, resolution: int, resumed: bool) -> None:
        """Show the network's graph on an example image."""
        if resumed:
            return
        was_training = network.training
        device = next(network.parameters()).device
        self.writer.add_graph(network.eval(), torch.zeros(1, 3, resolution, resolution, device=device))
        network.train(was_training)

    def finish(self, outcome: Outcome, why: str | None) -> None:
        """As in Tracker; the HPARAMS tab shows the run with its last results."""
        for summary in _hyperparameters(self.options, sorted(self.results)):
            self.writer.file_writer.add_summary(summary)
        self.tracker.finish()


def _hyperparameters(options: Mapping[str, Any], results: Sequence[str]) -> tuple[Any, ...]:
    """What the HPARAMS tab reads, for the curves of this folder.

    `SummaryWriter.add_hparams` would write a folder of its own, which is another run to TensorBoard.
    """
    from torch.utils.tensorboard.summary import hparams

    shown = {key: value for key, value in options.items() if not key.startswith(NOT_HYPERPARAMETERS)}
    return hparams(shown, dict.fromkeys(results, 0.0))
