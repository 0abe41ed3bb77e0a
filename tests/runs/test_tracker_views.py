"""What trackers show of a run that was killed and went on, read back from the files that they write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from PIL import Image

from anynet_dist.config.schema import TrackingConfig
from anynet_dist.runs.folder import RunFolder
from anynet_dist.runs.metrics_log import RunLog, read_records
from anynet_dist.runs.trackers import Outcome
from anynet_dist.runs.trackers.view import Best, better, view
from anynet_dist.runs.trackers.wandb_files import Shown, shown_by_service, shown_on_disk, unsent
from anynet_dist.system.files import write_json
from tests.runs.killed_runs import (
    AFTER,
    KEPT,
    LOST,
    Runs,
    config_with,
    evaluated,
    log_of,
    runs_to_kill,
    taken,
    train,
    write,
)
from tests.runs.test_metrics_log import offline_payloads, wandb_history
from tests.runs.wandb_server import WandbServer

wandb = pytest.importorskip("wandb")


def close(log: RunLog, outcome: Outcome = "finished", why: str | None = None) -> None:
    """As at the end of a process, when all of wandb's files are complete."""
    log.close(outcome, why)
    wandb.teardown()


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    with runs_to_kill() as runs:
        yield runs


@pytest.fixture(scope="module", autouse=True)
def state() -> Iterator[None]:
    """What accelerate's trackers ask who they are."""
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState(cpu=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    files = {"test/confusion": folder / "confusion.png", "test/mistakes": folder / "mistakes.jpg"}
    for file in files.values():
        Image.new("RGB", (12, 8), (200, 10, 10)).save(file)
    return files


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, runs: Runs, pictures: dict[str, Path]) -> RunFolder:
    """A run with W&B offline and TensorBoard that was killed in step 13, went on from step 8 and ended."""
    pytest.importorskip("tensorboard")
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    tracking = {
        **{"trackers": ["wandb", "tensorboard"], "wandb": "offline", "notes": "what for", "tags": ["small"]},
        **{"wandb_artifacts": "final", "wandb_alerts": True},
    }
    write_json(folder.environment, {"commit": "abc"})
    folder.console.write_text("epoch 1\n")
    runs.kill(folder, tracking, [*KEPT, *LOST], when=lambda: records_on_disk(folder) == len(KEPT + LOST))
    log = log_of(folder, config_with(TrackingConfig(**tracking)), resumed=True)  # type: ignore[arg-type]
    write(log, AFTER)
    trackers = taken(log)
    trackers.show_pictures(pictures, 16)
    trackers.show_table("test/worst", ("file", "loss"), [("a.png", 1.5), ("b.png", 1.25)], 16)
    folder.weights.write_bytes(b"weights")
    close(log)
    return folder


def records_on_disk(folder: RunFolder) -> float:
    """How many records are in the .wandb files."""
    shown = shown_on_disk(folder.path / "wandb")
    return shown.number if shown else 0


@pytest.fixture(scope="module")
def wandb_records(run: RunFolder) -> list[Any]:
    return records_of(run)


def records_of(run: RunFolder) -> list[Any]:
    """All that is in the .wandb files, in the order of the starts."""
    from wandb.proto import wandb_internal_pb2

    records = []
    for file in sorted((run.path / "wandb").glob("offline-run-*/*.wandb")):
        for payload in offline_payloads(file):
            records.append(wandb_internal_pb2.Record())  # type: ignore[attr-defined]
            records[-1].ParseFromString(payload)
    return records


@pytest.fixture(scope="module")
def events(run: RunFolder) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(run.path / "tensorboard")).Reload()


def of(records: list[Any], kind: str) -> list[Any]:
    return [getattr(record, kind) for record in records if record.WhichOneof("record_type") == kind]


def summary_of(records: list[Any]) -> dict[str, Any]:
    items = [item for summary in of(records, "summary") for item in summary.update]
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_numbers_are_shown_in_groups_without_those_that_are_always_zero() -> None:
    record = {"time": 1.0, **train(3), "data_wait": 0.0, "eta_seconds": 5.0, "mfu": 0.3, "skipped_steps": 0}
    assert view(record).keys() == {
        *("train/loss", "train/top1", "train/lr", "train/epoch", "system/peak_memory_gib"),
        *("speed/images_per_second", "speed/data_wait", "speed/eta_seconds", "speed/mfu"),
    }
    assert (
        view(train(3, bad_steps=2, grad_norm=0.0)).items()
        >= {"train/bad_steps": 2, "train/grad_norm": 0.0}.items()
    )
    assert view({**evaluated("val", 3, 1, 0.5), "val/not_finite": 0}).keys() == {
        *("val/loss", "val/top1", "val/ema_top1", "val/epoch")
    }


def test_the_best_score_is_that_which_chooses_the_network() -> None:
    best = Best("val/ema_top1")
    shown = [best.update(evaluated("val", 1, epoch, top1)) for epoch, top1 in ((1, 0.5), (2, 0.4), (3, 0.6))]
    assert shown == [{"best/top1": 0.5, "best/epoch": 1}, {}, {"best/top1": 0.6, "best/epoch": 3}]
    assert best.update(evaluated("test", 1, 4, 0.9)) == {}
    assert [better(key) for key in ("val/loss", "val/ema_top1", "train/lr", "test/top1")] == [
        "min",
        "max",
        None,
        None,
    ]


def test_how_far_a_killed_run_is_in_the_service() -> None:
    up_to_date = shown_by_service({"global_step": 13, "record": 14, "_step": 13}, rows=14)
    assert up_to_date == Shown(13, 14, 14)
    assert [up_to_date.includes(*at) for at in ((12, 13), (13, 14), (13, 15), (20, 12))] == [
        True,
        True,
        False,
        False,
    ]
    behind = shown_by_service({"global_step": 11, "record": 12, "_step": 11}, rows=14)
    assert behind
    assert [behind.includes(*at) for at in ((13, 14), (14, 15))] == [True, False]
    older = shown_by_service({"global_step": 13, "_step": 13}, rows=14)
    assert older
    assert [older.includes(*at) for at in ((13, 15), (14, 15))] == [True, False]
    assert shown_by_service({}, rows=0) is None


@pytest.mark.slow
def test_wandb_has_each_record_once(run: RunFolder) -> None:
    rows = [row for row in wandb_history(run.path / "wandb") if "record" in row]
    records = read_records(run.metrics)
    assert [row["global_step"] for row in rows] == [record["step"] for record in records]
    assert [row["record"] for row in rows] == list(range(1, len(records) + 1))
    shown = [row["train/loss"] for row in rows if "train/loss" in row]
    assert shown == pytest.approx([record["train/loss"] for record in records if "train/loss" in record])
    assert [row["_step"] for row in rows] == list(range(len(records)))


@pytest.mark.slow
def test_wandb_summary_has_the_best_of_all_starts(wandb_records: list[Any]) -> None:
    summary = summary_of(wandb_records)
    assert (summary["best/top1"], summary["best/epoch"]) == (0.5, 1)
    assert summary["val/top1"] == {"last": 0.4, "max": 0.5}
    assert summary["val/loss"] == {"last": 0.6, "min": 0.5}
    assert summary["test/top1"] == 0.45
    defined = {metric.name: metric for metric in of(wandb_records, "metric")}
    assert defined["val/top1"].summary.max
    assert defined["train/loss"].summary.min
    assert {metric.step_metric for metric in defined.values()} == {"global_step", ""}


@pytest.mark.slow
def test_wandb_shows_config_notes_pictures_table_weights_console_and_alerts(
    run: RunFolder, wandb_records: list[Any]
) -> None:
    started = of(wandb_records, "run")[-1]
    assert (started.display_name, started.notes, list(started.tags)) == ("mine", "what for", ["small"])
    config = {item.key: item.value_json for item in started.config.update}
    assert config["derived"] == '{"params":3979,"widths":[8,16]}'
    history = wandb_history(run.path / "wandb")
    (media,) = [row for row in history if "test/confusion/_type" in row]
    assert (media["test/confusion/width"], media["test/mistakes/_type"]) == (12, "image-file")
    assert media["global_step"] == 16
    (table,) = [row for row in history if "test/worst/_type" in row]
    assert (table["test/worst/_type"], table["test/worst/nrows"]) == ("table-file", 2)
    (weights,) = [artifact for artifact in of(wandb_records, "artifact") if artifact.type == "model"]
    assert [file.path for file in weights.manifest.contents] == ["model.safetensors"]
    assert "final" in weights.aliases
    assert "console.log" in [file.path for files in of(wandb_records, "files") for file in files.files]
    assert not of(wandb_records, "output_raw"), "no frames of a progress bar"
    (alert,) = of(wandb_records, "alert")
    assert (alert.title, alert.level) == ("mine: not finite", "ERROR")


@pytest.mark.slow
def test_tensorboard_has_each_record_once(run: RunFolder, events: Any) -> None:
    records = read_records(run.metrics)
    for key in ("train/loss", "val/top1", "test/top1"):
        shown = [(event.step, event.value) for event in events.Scalars(key)]
        logged = [(record["step"], pytest.approx(record[key])) for record in records if key in record]
        assert shown == logged, key
    groups = {tag.partition("/")[0] for tag in events.Tags()["scalars"]}
    assert groups == {"train", "val", "test", "best", "speed", "system"}
    assert [event.step for event in events.Scalars("train/bad_steps")] == [15, 16]


@pytest.mark.slow
def test_tensorboard_shows_texts_pictures_and_hyperparameters_of_one_run(run: RunFolder, events: Any) -> None:
    from tensorboard.plugins.hparams import plugin_data_pb2

    texts = {f"{name}/text_summary" for name in ("config", "environment", "network", "notes", "test/worst")}
    assert texts <= set(events.Tags()["tensors"])
    assert len(events.Tensors("config/text_summary")) == 1
    (picture,) = events.Images("test/confusion")
    assert (picture.width, picture.height, picture.step) == (12, 8, 16)
    content = events.PluginTagToContent("hparams")
    data = plugin_data_pb2.HParamsPluginData.FromString
    start = data(content["_hparams_/session_start_info"]).session_start_info
    assert start.hparams["optim.name"].string_value == "sgd"
    assert start.hparams["derived.params"].number_value == 3979
    assert not [name for name in start.hparams if name.startswith("tracking.")]
    results = {info.name.tag for info in data(content["_hparams_/experiment"]).experiment.metric_infos}
    assert {"best/top1", "test/top1", "val/loss"} <= results
    assert not [path for path in (run.path / "tensorboard").iterdir() if path.is_dir()], (
        "no runs below the run"
    )


@pytest.mark.slow
def test_the_service_has_each_record_once_after_an_offline_start_and_a_kill(
    tmp_path: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, folder = WandbServer(), RunFolder(tmp_path)
    environment = {**server.environment, "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1"}
    runs.kill(folder, {"wandb": "offline"}, KEPT, when=lambda: records_on_disk(folder) == len(KEPT))
    assert len(unsent(tmp_path / "wandb")) == 1
    history = lambda: [row for run in server.runs.values() for _, row in sorted(run.history.items())]  # noqa: E731
    all_sent = lambda: len(history()) == len(KEPT + LOST)  # noqa: E731
    runs.kill(folder, {"trackers": ["wandb"]}, LOST, when=all_sent, **environment)
    assert unsent(tmp_path / "wandb") == [], "sending them too would show them twice"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    log = log_of(folder, config_with(TrackingConfig(trackers=["wandb"])), resumed=True)
    write(log, AFTER)
    close(log)
    server.close()
    assert [row["record"] for row in history()] == list(range(1, len(KEPT + AFTER) + 1))
    assert [row["global_step"] for row in history()] == [record["step"] for record in KEPT + AFTER]
    (stored,) = server.runs.values()
    assert stored.exit_codes == [0]
    assert shown_on_disk(tmp_path / "wandb") == Shown(16, len(KEPT + AFTER), len(KEPT + AFTER))


@pytest.mark.slow
def test_wandb_watches_gradients_and_tells_why_a_run_failed(tmp_path: Path) -> None:
    tracking = TrackingConfig(
        wandb="offline", wandb_watch="gradients", wandb_alerts=True, wandb_artifacts="best"
    )
    config = config_with(tracking)
    config = replace(config, train=replace(config.train, log_every=1))
    folder = RunFolder(tmp_path)
    (folder.checkpoints / "best").mkdir(parents=True)
    (folder.checkpoints / "best" / "model.safetensors").write_bytes(b"weights")
    log = log_of(folder, config, resumed=False)
    network = torch.nn.Linear(3, 2)
    taken(log).show_network(network, 8, resumed=False)
    for step in (1, 2):
        network(torch.ones(1, 3)).sum().backward()
        log.write(train(step))
        taken(log)
    close(log, "failed", "the disk is full")
    histories = [row for row in wandb_history(tmp_path / "wandb") if "gradients/weight/bins" in row]
    assert [row["global_step"] for row in histories] == [1, 2]
    records = records_of(folder)
    (alert,) = of(records, "alert")
    assert (alert.title, alert.text) == ("mine: failed", "the disk is full")
    assert not [artifact for artifact in of(records, "artifact") if artifact.type == "model"]
    assert [leave.exit_code for leave in of(records, "exit")] == [1]


@pytest.mark.slow
def test_a_run_killed_in_a_service_that_others_share_goes_on(tmp_path: Path) -> None:
    wandb.setup().ensure_service()  # as where W&B was in use before; child processes find it and share it
    folder, offline = RunFolder(tmp_path / "run"), {"wandb": "offline"}
    with runs_to_kill() as runs:
        runs.kill(folder, offline, [*KEPT, *LOST], when=lambda: records_on_disk(folder) == len(KEPT + LOST))
    log = log_of(folder, config_with(TrackingConfig(wandb="offline")), resumed=True)
    write(log, AFTER)
    close(log)
    steps = [int(row["global_step"]) for row in wandb_history(folder.path / "wandb") if "train/loss" in row]
    assert set(steps) == set(range(1, 17))
