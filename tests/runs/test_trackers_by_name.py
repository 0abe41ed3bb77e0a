"""Trackers are named, found, refused and reached through accelerate's interface."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker
from PIL import Image

from anynet_dist.config import Config, load_config
from anynet_dist.config.errors import ConfigError
from anynet_dist.config.schema import TrackingConfig
from anynet_dist.runs.folder import RunFolder
from anynet_dist.runs.metrics_log import RunLog
from anynet_dist.runs.progress import Progress
from anynet_dist.runs.trackers import RunFacts, check_trackers, register_tracker
from anynet_dist.system.errors import UserError
from tests.conftest import ROOT


def config(**tracking: Any) -> Config:
    return replace(Config(), tracking=TrackingConfig(**tracking))


class Lines(GeneralTracker):
    """Writes what it is given as lines of JSON."""

    name = "lines"
    requires_logging_directory = True

    def __init__(self, run_name: str, logging_dir: str, broken: bool = False) -> None:
        super().__init__()
        self.project, self.file, self.broken = run_name, Path(logging_dir) / "lines.jsonl", broken

    @property
    def tracker(self) -> Path:
        return self.file

    def start(self) -> None:
        if self.broken:
            raise OSError("no such service")
        self._add(project=self.project)

    def _add(self, **values: Any) -> None:
        with self.file.open("a") as file:
            print(json.dumps(values), file=file)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._add(config=values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self._add(step=step, values=values)

    def log_images(self, values: dict[str, list[Image.Image]], step: int | None = None, **_: Any) -> None:
        self._add(step=step, images={name: [image.size for image in found] for name, found in values.items()})

    def finish(self) -> None:
        self._add(finished=True)


@pytest.fixture
def lines(registries: None) -> Iterator[None]:
    """That tracker, registered, with the state that accelerate's trackers look at."""
    register_tracker("lines")(Lines)
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState(cpu=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_an_unknown_tracker_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        check_trackers(config(trackers=["tensorbord"]))
    message = str(caught.value)
    assert message.startswith("tracking.trackers: unknown tracker 'tensorbord'; did you mean 'tensorboard'?")
    assert "mlflow" in message


def test_a_tracker_that_is_not_installed_says_what_to_install() -> None:
    missing = next(name for name in ("swanlab", "clearml", "aim") if find_spec(name) is None)
    with pytest.raises(UserError, match=rf"needs {missing}, which is not installed: .*install {missing}"):
        check_trackers(config(trackers=[missing]))


def test_both_ways_to_name_wandb_and_tensorboard_mean_the_same() -> None:
    named = TrackingConfig(trackers=["wandb", "tensorboard"])
    assert (named.wandb_mode, named.uses_tensorboard, named.others) == ("online", True, [])
    assert TrackingConfig(trackers=["wandb"], wandb="offline").wandb_mode == "offline"
    options = TrackingConfig(wandb="online", tensorboard=True)
    assert (options.wandb_mode, options.uses_tensorboard) == ("online", True)
    assert TrackingConfig(trackers=["lines", "wandb", "lines"]).others == ["lines"]


def test_the_examples_of_the_page_are_configs_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    page = (ROOT / "docs" / "tracking.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.M | re.S)
    for example in examples:
        (tmp_path / "c.yaml").write_text(example)
        load_config(tmp_path / "c.yaml")
    assert len(examples) == 2
    assert not caplog.records


def test_every_option_is_on_the_page() -> None:
    page = (ROOT / "docs" / "tracking.md").read_text(encoding="utf-8")
    missing = [option.name for option in fields(TrackingConfig) if option.name not in page]
    assert not missing


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tracking.tracker_options", "{lines: {broken: true}}"], "names 'lines', which is not among"),
        (
            ["--tracking.tracker_options", "{wandb: {mode: x}}"],
            "does not take 'wandb', which has options of its own",
        ),
    ],
)
def test_options_of_a_tracker_that_is_not_used_are_refused(
    blobs_config: Path, words: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(blobs_config, words)


def test_settings_of_trackers_without_one_have_no_effect(
    blobs_config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_config(blobs_config, ["--tracking.notes", "x", "--tracking.wandb_watch", "all"])
    assert "tracking.notes has no effect: no tracker is on" in caplog.text
    assert "tracking.wandb_watch has no effect: tracking.wandb is off" in caplog.text


def test_a_registered_tracker_gets_config_curves_and_pictures(lines: None, tmp_path: Path) -> None:
    folder, chosen = RunFolder(tmp_path), config(trackers=["lines"])
    check_trackers(chosen)
    log = RunLog(folder, chosen, Progress(), True, RunFacts(derived={"params": 12}, score="val/top1"))
    log.write({"step": 1, "epoch": 1, "train/loss": 2.0, "lr": 0.1})
    log.write({"step": 1, "epoch": 1, "val/top1": 0.5})
    assert log.trackers
    Image.new("L", (4, 3)).save(tmp_path / "picture.png")
    log.trackers.show_pictures({"test/confusion": tmp_path / "picture.png"}, 1)
    log.trackers.show_pictures({"test/gone": tmp_path / "gone.png"}, 1)
    log.trackers.show_table("test/worst", ("file",), [("a",)], 1)
    log.write({"step": 2, "epoch": 1, "train/loss": 1.0, "lr": 0.1})
    log.close("finished")
    text = (folder.trackers / "lines" / "lines.jsonl").read_text()
    project, options, *shown = (json.loads(line) for line in text.splitlines())
    assert project == {"project": "anynet"}
    assert options["config"].items() >= {"optim.name": "sgd", "derived.params": 12}.items()
    assert shown == [
        {"step": 1, "values": {"train/epoch": 1, "train/loss": 2.0, "train/lr": 0.1}},
        {"step": 1, "values": {"val/epoch": 1, "val/top1": 0.5, "best/top1": 0.5, "best/epoch": 1}},
        {"step": 1, "images": {"test/confusion": [[4, 3]]}},
        {"step": 2, "values": {"train/epoch": 1, "train/loss": 1.0, "train/lr": 0.1}},
        {"finished": True},
    ]


def test_a_tracker_that_does_not_start_leaves_the_run_alone(
    lines: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = config(trackers=["lines"], tracker_options={"lines": {"broken": True}})
    log = RunLog(RunFolder(tmp_path), chosen, Progress(), True)
    log.write({"step": 1, "epoch": 1, "train/loss": 2.0})
    log.close("finished")
    assert "lines does not start, and the run continues without it: no such service" in caplog.text
