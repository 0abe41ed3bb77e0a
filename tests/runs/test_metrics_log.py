"""What Weights & Biases and TensorBoard receive, read back from the real files they leave on the disk."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from anynet_dist.runs.metrics_log import keep_records, read_records
from anynet_dist.runs.progress import Progress

Launch = Callable[..., CompletedProcess[str]]


def test_a_resumed_run_drops_the_records_it_will_write_again(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "los')
    keep_records(file, Progress(records=2))
    assert read_records(file) == [{"step": 1}, {"step": 2}]


def offline_payloads(file: Path) -> Iterator[bytes]:
    """The records of a .wandb file: 7 bytes of header, then LevelDB's log format in blocks of 32 KiB."""
    content, position, record = file.read_bytes(), 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        if kind == 0 or position + 7 + length > len(content):  # the end, or a record that is being written
            return
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""


def wandb_history(folder: Path) -> list[dict[str, Any]]:
    from wandb.proto import wandb_internal_pb2

    history = []
    for payload in (
        p for file in sorted(folder.glob("offline-run-*/*.wandb")) for p in offline_payloads(file)
    ):
        record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
        record.ParseFromString(payload)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            history.append({(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in items})
    return history


@pytest.mark.multiprocess
@pytest.mark.slow
def test_wandb_shows_the_records_of_rank_0_as_one_run_through_a_restart(
    blobs_config: Path, tmp_path: Path, launch: Launch
) -> None:
    pytest.importorskip("wandb")
    launch("train", blobs_config, "--tracking.wandb", "offline", "--train.epochs", "1", processes=2)
    launch("train", blobs_config, "--tracking.wandb", "offline", "--resume", "auto")
    folder = tmp_path / "run" / "wandb"
    runs = list(folder.glob("offline-run-*"))
    assert len(runs) == 2, "one for each start, none for rank 1"
    assert {run.name.rsplit("-", 1)[1] for run in runs} == {(folder / "id").read_text()}
    history = wandb_history(folder)
    steps = [row["global_step"] for row in history if "train/loss" in row]
    assert steps == [1, 2, 3, 4, 5, 6]
    logged = [
        row["train/loss"] for row in read_records(tmp_path / "run" / "metrics.jsonl") if "train/loss" in row
    ]
    assert [row["train/loss"] for row in history if "train/loss" in row] == pytest.approx(logged)


@pytest.mark.slow
def test_tensorboard_shows_curves_graph_and_config(
    blobs_config: Path, tmp_path: Path, launch: Launch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    launch("train", blobs_config, "--tracking.tensorboard", "true")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "train/top1", "val/top1", "test/top1", "train/lr"} <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert "stage1" in str(events.Graph())
    assert "config/text_summary" in tags["tensors"]
