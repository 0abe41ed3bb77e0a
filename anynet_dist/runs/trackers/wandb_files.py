"""What Weights & Biases has of a run: in its records on the disk, and in what the service tells.

wandb writes everything it is given to a .wandb file: a header of 7 bytes, then records of protocol buffers in
the log format of LevelDB, in blocks of 32 KiB. It has no function of its own that reads them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

STEP, NUMBER = "global_step", "record"
"""What each row of ours says: global batches used, and the line in metrics.jsonl."""
HEADER, BLOCK, RECORD_HEADER = 7, 32768, 7
WHOLE, LAST = 1, 4


class Shown(NamedTuple):
    """How far Weights & Biases has a run's records."""

    step: float
    """Of the last one; infinite where only its number is known."""
    number: float
    """Its line in metrics.jsonl; infinite where it was not noted."""
    rows: int
    """Rows so far, pictures and tables among them."""

    def includes(self, step: int, number: int) -> bool:
        """Whether a record is among them."""
        if self.step == float("inf"):
            return number <= self.number
        return (step, number) <= (self.step, self.number)


def shown_by_service(summary: Mapping[str, Any], rows: int) -> Shown | None:
    """How far the service has a run of so many rows, by its summary; None for nothing.

    The summary of a run that was killed may be some rows behind; those are taken for records.
    """
    if rows == 0:
        return None
    step, number = summary.get(STEP), summary.get(NUMBER)
    behind = rows - 1 - int(summary.get("_step", rows - 1))
    if not isinstance(number, int | float):  # by a version that did not note it
        return Shown(step if isinstance(step, int | float) else -1, float("inf"), rows)
    if behind > 0 or not isinstance(step, int | float):
        return Shown(float("inf"), number + behind, rows)
    return Shown(step, number, rows)


def shown_on_disk(folder: Path) -> Shown | None:
    """How far the records in a run's wandb/ folder go; None where there are none."""
    # Each start has a folder of its own: [offline-]run-TIME-ID.
    folders = sorted(folder.glob("*run-*-*"), key=lambda path: path.name.removeprefix("offline-"))
    for file in (file for start in reversed(folders) for file in start.glob("*.wandb")):
        last: dict[str, Any] | None = None
        rows = 0
        try:
            for row in history(file):
                last = row if NUMBER in row else last
                rows = max(rows, int(row.get("_step", -1)) + 1)
        except Exception as error:  # a damaged file, or another version's
            logger.warning("cannot read all of %s, and goes on with what it holds before: %s", file, error)
        if last:
            return Shown(last[STEP], last[NUMBER], rows)
    return None


def unsent(folder: Path) -> list[Path]:
    """The offline records in a run's wandb/ folder that were not sent yet."""
    files = folder.glob("offline-run-*/*.wandb")
    return [file for file in files if not Path(f"{file}.synced").exists()]


def history(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a .wandb file, in order."""
    from wandb.proto import wandb_internal_pb2

    for payload in payloads(file.read_bytes()):
        record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
        record.ParseFromString(payload)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            yield {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in items}


def payloads(content: bytes) -> Iterator[bytes]:
    """The records of a .wandb file, whole ones only, as protocol buffers."""
    position, payload = HEADER, b""
    while position + RECORD_HEADER <= len(content):
        left = BLOCK - position % BLOCK
        if left < RECORD_HEADER:  # a block ends with zeros where no header fits
            position += left
            continue
        length = int.from_bytes(content[position + 4 : position + 6], "little")
        kind, start = content[position + 6], position + RECORD_HEADER
        if kind == 0 or start + length > len(content):  # the end, or cut short
            return
        payload += content[start : start + length]
        position = start + length
        if kind in (WHOLE, LAST):
            yield payload
            payload = b""
