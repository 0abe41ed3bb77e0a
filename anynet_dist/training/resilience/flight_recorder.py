"""Where each rank of a run stands, written to the run folder when it hangs or is asked with SIGQUIT."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anynet_dist.system.files import atomic_path, write_json, write_text
from anynet_dist.training.resilience.faults import Peer

logger = logging.getLogger(__name__)

TOGETHER_S = 5.0
"""Requests that come within this time are one; so long does rank 0 wait for what the others write, too."""


class FlightRecorder:
    """Writes `rank_N.json` (step, last batch, what is waited for) and `rank_N.txt` (the stacks of all
    threads) into a folder, and on rank 0 `summary.txt`: which rank waits for what, since when.

    A rank that is asked with SIGQUIT asks the others of its machine.
    """

    def __init__(
        self, folder: Path, peers: list[Peer], rank: int, progress: Callable[[], dict[str, int]]
    ) -> None:
        """`progress` gives what a record holds of the run's state."""
        self.folder, self.peers, self.rank, self.progress = folder, peers, rank, progress
        self._last = -TOGETHER_S

    def record(self, why: str, place: dict[str, Any], asks_others: bool = False) -> None:
        """Write this rank's record beside whatever the process does; `place` says where it stands."""
        if time.monotonic() - self._last < TOGETHER_S:
            return
        self._last = time.monotonic()
        if asks_others:
            self._ask_others()
        facts = {"rank": self.rank, "why": why, "time": _now(), **place, **self.progress()}
        # The file system may be what hangs: whoever calls has to go on.
        threading.Thread(target=self._write, args=(facts,), name="flight recorder", daemon=True).start()

    def _ask_others(self) -> None:
        here = next(peer.host for peer in self.peers if peer.rank == self.rank)
        for peer in self.peers:
            if peer.rank != self.rank and peer.host == here and not peer.is_gone():
                os.kill(peer.pid, signal.SIGQUIT)

    def _write(self, facts: dict[str, Any]) -> None:
        began = time.time()
        try:
            with atomic_path(self.folder / f"rank_{self.rank}.txt") as file, open(file, "w") as stacks:
                faulthandler.dump_traceback(stacks, all_threads=True)
            write_json(self.folder / f"rank_{self.rank}.json", facts)
            if self.rank == 0:
                self._sum_up(began)
        except OSError as error:
            logger.warning("cannot record where this rank stands: %s", error)

    def _sum_up(self, began: float) -> None:
        files = {peer.rank: self.folder / f"rank_{peer.rank}.json" for peer in self.peers}
        end = time.monotonic() + TOGETHER_S
        while time.monotonic() < end and not all(_is_new(file, began) for file in files.values()):
            time.sleep(0.1)
        records = {rank: _read(file) for rank, file in files.items() if _is_new(file, began)}
        lines = summary(records, self.peers)
        write_text(self.folder / "summary.txt", "\n".join([_now(), *lines, ""]))
        logger.warning("where the ranks stand (stacks in %s):\n  %s", self.folder, "\n  ".join(lines))


def summary(records: dict[int, dict[str, Any]], peers: list[Peer]) -> list[str]:
    """A line for each rank: those that say nothing, then those that wait for no other rank, then the rest."""
    silent = [
        f"{peer} has not answered{', it is stopped' if peer.is_stopped() else ''}"
        for peer in peers
        if peer.rank not in records
    ]
    waiting = {rank for rank, record in records.items() if record["waits_for"] == "the other ranks"}
    order = sorted(records, key=lambda rank: (rank in waiting, rank))
    return silent + [_line(records[rank]) for rank in order]


def _line(record: dict[str, Any]) -> str:
    what = f"waits for {record['waits_for']}" if record["waits_for"] else "works"
    where = f"at {record['at']}, for {record['seconds']:.0f} s"
    return f"rank {record['rank']}, after step {record['step']}: {what} {where}"


def _is_new(file: Path, began: float) -> bool:
    """Whether it was written for this occasion; ranks may notice a standstill at different times."""
    try:
        return file.stat().st_mtime > began - 2 * TOGETHER_S
    except OSError:
        return False


def _read(file: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return record


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
