"""Weights & Biases: one run through all restarts, each record in it once.

A run that was killed may have shown more than its last checkpoint knows. When it goes on, the records that
are shown already are left out until it has caught up, and those of metrics.jsonl that were never shown are
added. The service (online) or the disk (offline) tells how far that is. wandb's own rewind
(`resume_from`) is not used: it needs the service, and not all installations of it can do that.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker
from torch import nn

from anynet_dist.config.schema import Config
from anynet_dist.runs.file_names import AVERAGE, MODEL
from anynet_dist.runs.folder import RunFolder
from anynet_dist.runs.network_file import DESCRIPTION
from anynet_dist.runs.trackers.base import Entry, Outcome, Row, RunFacts, Tracker
from anynet_dist.runs.trackers.view import Values, better
from anynet_dist.runs.trackers.wandb_files import NUMBER, STEP, Shown, shown_by_service, shown_on_disk, unsent
from anynet_dist.runs.trackers.wandb_start import start_wandb
from anynet_dist.system.errors import StoppedEarly

logger = logging.getLogger(__name__)

EXIT_CODES: dict[Outcome, int] = {"finished": 0, "pruned": 0, "stopped": StoppedEarly.exit_code, "failed": 1}


def start(config: Config, folder: RunFolder, facts: RunFacts) -> Wandb | None:
    """Start Weights & Biases; None where it is off or does not start."""
    before = shown_on_disk(folder.path / "wandb")
    started = start_wandb(config, folder, facts)
    if started is None:
        return None
    tracker, mode = started
    run = tracker.tracker
    if mode == "online":
        before = shown_by_service(dict(run.summary), run.starting_step)
    return Wandb(
        tracker, config, folder, before, replaces=unsent(folder.path / "wandb") if mode == "online" else []
    )


class Wandb(Tracker):
    """A run of Weights & Biases; `before` is how far it has the records of this one already."""

    name = "wandb"

    def __init__(
        self,
        tracker: GeneralTracker,
        config: Config,
        folder: RunFolder,
        before: Shown | None,
        replaces: Sequence[Path],
    ) -> None:
        self.run, self.config, self.folder = tracker.tracker, config, folder
        self.before, self.replaces = before, replaces
        # A start that knows nothing of those before it would number its rows from 0 again.
        self.first_row = before.rows if before and self.run.starting_step == 0 else None
        self.extremes: dict[str, dict[str, float]] = {}
        self.alerted = False
        self.bad_steps = 0.0
        self.run.define_metric(STEP, hidden=True)
        self.run.define_metric(NUMBER, hidden=True)
        self.run.define_metric("*", step_metric=STEP)

    def catch_up(self, kept: Sequence[Entry]) -> None:
        """As in Tracker: what it does not have yet. Records that were kept offline need not be sent then."""
        for entry in kept:
            self.bad_steps = entry.values.get("train/bad_steps", self.bad_steps)
            self.log(entry)
        best = [entry.values for entry in kept if "best/epoch" in entry.values]
        if self.before and best:
            self.run.summary.update({key: best[-1][key] for key in best[-1] if key.startswith("best/")})
        for file in self.replaces:
            Path(f"{file}.synced").touch()  # as `wandb sync` does, which would add the same records again
            logger.info("Weights & Biases has the records of metrics.jsonl: %s need not be sent", file)

    def log(self, entry: Entry) -> None:
        """As in Tracker; a record that was shown before this start is left out."""
        self._follow(entry.values)
        if not (self.before and self.before.includes(entry.step, entry.number)):
            # wandb drops rows below its own step, so ours is a value like the others.
            self._write({**entry.values, STEP: entry.step, NUMBER: entry.number})
            self._watch_loss(entry)

    def _write(self, row: Mapping[str, Any]) -> None:
        self.run.log(dict(row), step=self.first_row, commit=True)
        self.first_row = None

    def _follow(self, values: Values) -> None:
        """Have the summary show the best value of curves that have one, beside the last."""
        for key, value in values.items():
            kind = better(key)
            if kind is None:
                continue
            if key not in self.extremes:
                self.run.define_metric(key, step_metric=STEP, summary=f"last,{kind}")
                self.extremes[key] = {"last": value, kind: value}
            choose = min if kind == "min" else max
            self.extremes[key] = {"last": value, kind: choose(self.extremes[key][kind], value)}

    def _watch_loss(self, entry: Entry) -> None:
        bad = entry.values.get("train/bad_steps", 0.0)
        if bad > self.bad_steps and self.config.tracking.wandb_alerts and not self.alerted:
            self.alerted = True
            self._alert(
                "not finite",
                f"{bad - self.bad_steps:g} steps up to {entry.step} had a loss or gradients"
                " that are not finite",
            )
        self.bad_steps = max(bad, self.bad_steps)

    def _alert(self, title: str, text: str) -> None:
        self.run.alert(title=f"{self.run.name}: {title}", text=text, level="ERROR")

    def show_pictures(self, pictures: Mapping[str, Path], step: int) -> None:
        """As in Tracker."""
        import wandb

        self._write({name: wandb.Image(str(file)) for name, file in pictures.items()} | {STEP: step})

    def show_table(self, name: str, columns: Sequence[str], rows: Sequence[Row], step: int) -> None:
        """As in Tracker."""
        import wandb

        self._write({name: wandb.Table(list(columns), [list(row) for row in rows]), STEP: step})

    def watch(self, network: nn.Module, resolution: int, resumed: bool) -> None:
        """Have wandb make histograms of gradients, where that is asked for."""
        log = self.config.tracking.wandb_watch
        if log != "off":
            logger.warning("tracking.wandb_watch: histograms of %s cost time in training", log)
            self.run.watch(network, log=log, log_freq=self.config.train.log_every)

    def finish(self, outcome: Outcome, why: str | None) -> None:
        """As in Tracker."""
        if self.before:  # wandb's own extremes begin with this start
            self.run.summary.update(self.extremes)
        if outcome == "failed" and self.config.tracking.wandb_alerts:
            self._alert("failed", why or "the run failed")
        if outcome in ("finished", "pruned"):
            self._keep_weights()
        if self.folder.console.exists():
            self.run.save(str(self.folder.console), base_path=str(self.folder.path), policy="now")
        if outcome == "stopped":
            self.run.mark_preempting()
        self.run.finish(exit_code=EXIT_CODES[outcome])

    def _keep_weights(self) -> None:
        """Log the weights that are asked for as a version of the artifact `model-ID`."""
        import wandb

        which = self.config.tracking.wandb_artifacts
        best = self.folder.checkpoints / "best"
        files = {
            "off": [],
            "best": [best / MODEL, best / AVERAGE, self.folder.path / DESCRIPTION],
            "final": [self.folder.weights],
        }[which]
        files = [file for file in files if file.exists()]
        if not any(file.name == MODEL for file in files):
            return
        artifact = wandb.Artifact(f"model-{self.run.id}", type="model")
        for file in files:
            artifact.add_file(str(file), name=file.name)
        self.run.log_artifact(artifact, aliases=[which, "latest"])
