"""The log of a run: records in metrics.jsonl, which Weights & Biases and TensorBoard show."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from anynet_dist.config.schema import Config
from anynet_dist.runs.folder import RunFolder
from anynet_dist.runs.progress import Progress
from anynet_dist.runs.trackers import Outcome, RunFacts, Trackers
from anynet_dist.system.errors import RunError
from anynet_dist.system.files import atomic_path, flush
from anynet_dist.system.lock import LostLockError

logger = logging.getLogger(__name__)

Record = dict[str, Any]


class RunLog:
    """Appends records to metrics.jsonl and hands them to the trackers; for rank 0, silent on every other."""

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        progress: Progress,
        writes: bool,
        facts: RunFacts | None = None,
    ) -> None:
        """`progress` says how many of the records in the file a resumed run keeps; trackers show `facts`."""
        self.records, self.resumed = progress.records, progress.step > 0
        self.file, self.check_owner = folder.metrics, folder.check_owner
        self.may_wait = config.checkpoint.on_error == "continue"
        self.waiting: list[str] = []
        self.kept = hashlib.sha256()
        self.trackers: Trackers | None = None
        if writes:
            kept = keep_records(self.file, progress)
            self.kept.update(kept)
            records = [json.loads(line) for line in kept.splitlines()] if config.tracking.has_trackers else []
            self.trackers = Trackers(config, folder, facts or RunFacts(), records, progress.step)

    def write(self, record: Record) -> None:
        """Log one record; it needs `step`, the number of global batches used.

        A number that is not finite becomes null. Raises RunError where the disk does not take it, unless the
        config says to continue: then the record waits for the next one.
        """
        if self.trackers is None:
            return
        self.records += 1
        line = json.dumps({"time": round(time.time(), 3), **finite(record)}) + "\n"
        self.kept.update(line.encode())
        self.waiting.append(line)
        try:
            self.write_waiting()
        except OSError as error:
            if not self.may_wait:
                raise RunError(f"cannot write {self.file}: {error.strerror}") from None
            logger.warning("cannot write %s: %s; %d records wait", self.file, error, len(self.waiting))
        self.trackers.log(record, self.records)

    def show_network(self, network: nn.Module, resolution: int) -> None:
        """Have the trackers show the network before it trains; `resolution` is the side of its images."""
        if self.trackers:
            self.trackers.show_network(network, resolution, self.resumed)

    def write_waiting(self) -> None:
        """Hand the records that wait to the file. Raises OSError where the disk does not take them, and
        LostLockError where the run is another process's by now."""
        if self.waiting:
            self.check_owner()
            append_whole(self.file, "".join(self.waiting))
            self.waiting.clear()

    @property
    def sha256(self) -> str:
        """The digest of all records so far."""
        return self.kept.hexdigest()

    def flush(self) -> None:
        """Have all records on the disk, those that wait too. Raises OSError where it does not take them."""
        self.write_waiting()
        self.flush_written()

    def flush_written(self) -> None:
        """Have the records that the file was handed on the disk; on any thread. Raises OSError."""
        if self.file.exists():
            flush(self.file)

    def close(self, outcome: Outcome, why: str | None = None) -> None:
        """Write what waits, and finish the trackers, which show how and why the run ended.

        Records that no disk takes go to the console.
        """
        if self.trackers is None:
            return
        try:
            self.flush()
        except OSError as error:
            lines = "".join(self.waiting)
            logger.error("cannot write %s: %s; these records are not in it:\n%s", self.file, error, lines)
        except LostLockError:
            logger.debug("%d records are left out: the log is another process's", len(self.waiting))
        self.trackers.finish(outcome, why)
        self.trackers = None


def finite(record: Record) -> Record:
    """The record with null for each number that is not finite, which JSON does not know."""
    infinite = (key for key, value in record.items() if isinstance(value, float) and not math.isfinite(value))
    return record | dict.fromkeys(infinite)


def append_whole(file: Path, text: str) -> None:
    """Append lines, or, where the disk does not take all of them, nothing."""
    with file.open("ab", buffering=0) as stream:
        size, rest = stream.tell(), memoryview(text.encode())
        try:
            while rest:
                rest = rest[stream.write(rest) :]
        except OSError:
            with suppress(OSError):  # which would hide the first one; a line cut short is left out on reading
                stream.truncate(size)
            raise


def keep_records(file: Path, progress: Progress) -> bytes:
    """Remove the records that came after a checkpoint, and a last line that was cut short; returns the rest.

    Says so where records from before the checkpoint are missing, or are not what they were.
    """
    content = file.read_bytes() if file.exists() else b""
    lines = [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
    kept = [line for line in lines[: progress.records] if _is_record(line)]
    whole = b"".join(kept)
    if len(kept) < progress.records:
        logger.warning(
            "%s holds %d of the %d records up to the checkpoint: the others are lost, and the log continues"
            " with a gap",
            file,
            len(kept),
            progress.records,
        )
    elif progress.log_sha256 and hashlib.sha256(whole).hexdigest() != progress.log_sha256:
        logger.warning("%s has changed since the checkpoint was saved", file)
    if whole != content:
        with atomic_path(file) as temporary:
            temporary.write_bytes(whole)
    return whole


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def read_records(file: Path) -> list[Record]:
    """All records of a metrics.jsonl, but for a last line that is being written, or was cut short."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
