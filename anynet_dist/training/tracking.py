"""The log of a run: records in metrics.jsonl, which Weights & Biases and TensorBoard show."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from anynet_dist.config.schema import Config
from anynet_dist.system.errors import RunError
from anynet_dist.system.files import write_text
from anynet_dist.training.run_folder import RunFolder
from anynet_dist.training.trackers import Outcome, Trackers

logger = logging.getLogger(__name__)

Record = dict[str, Any]


class RunLog:
    """Appends records to metrics.jsonl and hands them to the trackers; for rank 0, silent on every other."""

    def __init__(self, folder: RunFolder, config: Config, records: int, writes: bool) -> None:
        """`records` is the number of those in the file that a resumed run keeps."""
        self.records = records
        self.file = folder.metrics
        self.may_wait = config.checkpoint.on_error == "continue"
        self.waiting: list[str] = []
        self.trackers: Trackers | None = None
        if writes:
            keep_records(self.file, records)
            self.trackers = Trackers(config, folder)

    def write(self, record: Record) -> None:
        """Log one record; it needs `step`, the number of global batches used.

        Raises RunError where the disk does not take it, unless the config says to continue: then the record
        waits for the next one.
        """
        if self.trackers is None:
            return
        self.records += 1
        self.waiting.append(json.dumps({"time": round(time.time(), 3), **record}) + "\n")
        try:
            append_whole(self.file, "".join(self.waiting))
            self.waiting.clear()
        except OSError as error:
            if not self.may_wait:
                raise RunError(f"cannot write {self.file}: {error.strerror}") from None
            logger.warning("cannot write %s: %s; %d records wait", self.file, error, len(self.waiting))
        values = {key: value for key, value in record.items() if isinstance(value, (int, float))}
        self.trackers.log(values, record["step"])

    def close(self, outcome: Outcome) -> None:
        """Finish the trackers."""
        if self.trackers:
            self.trackers.finish(outcome)
            self.trackers = None


def append_whole(file: Path, text: str) -> None:
    """Append text, or, where the disk does not take all of it, nothing."""
    with file.open("ab", buffering=0) as stream:
        size, rest = stream.tell(), memoryview(text.encode())
        try:
            while rest:
                rest = rest[stream.write(rest) :]
        except OSError:
            stream.truncate(size)
            raise


def keep_records(file: Path, count: int) -> None:
    """Remove all but the first `count` records, and a last line that was cut short."""
    if file.exists():
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        write_text(file, "".join(line for line in lines[:count] if line.endswith("\n")))


def read_records(file: Path) -> list[Record]:
    """All records of a metrics.jsonl, but for a last line that is being written, or was cut short."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
