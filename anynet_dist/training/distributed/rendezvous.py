"""The rendezvous of the ranks, also after a launcher has restarted them; a rank that does not join is named.

torchrun and accelerate keep one store for all starts of their processes. What the ranks of an earlier
start wrote is still in it, so that a rank of this one could read the address of a dead rank. Here the live
ones first agree on a name, under which they then connect.

All waiting is done in short pieces, so that a signal ends it.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed import DistNetworkError, DistStoreError
from torch.distributed.rendezvous import register_rendezvous_handler

from anynet_dist.system import distributed
from anynet_dist.system.errors import RunError, UserError
from anynet_dist.training.resilience.stop_requests import check_stop

logger = logging.getLogger(__name__)

SCHEME = "restarted"
# Between two looks into the store.
PAUSE = 0.05
# One attempt to connect to rank 0.
CONNECT_S = 2.0
REPORT_S = 5.0


def arguments() -> dict[str, Any]:
    """What torch's `init_process_group` is to be given: nothing for a process alone."""
    # Set by torch's launcher, on which accelerate's is built.
    kept = _launcher_keeps_store()
    return {"init_method": f"{SCHEME}://"} if kept or distributed.world_size() > 1 else {}


def _launcher_keeps_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)


class _Patience:
    """Time to wait for others; logs once for whom."""

    def __init__(self, timeout: timedelta) -> None:
        self.started, self.seconds = time.monotonic(), timeout.total_seconds()
        self.reported = False

    def lasts(self, waiting_for: str) -> bool:
        """Whether there is time left; a pause is part of it."""
        check_stop(waiting_for)
        waited = time.monotonic() - self.started
        if waited > REPORT_S and not self.reported:
            logger.warning("rank %d has waited %.0f s for %s", distributed.rank(), waited, waiting_for)
            self.reported = True
        time.sleep(PAUSE)
        return waited < self.seconds


def agree(store: Store, rank: int, world_size: int, timeout: timedelta) -> str:
    """A name that the ranks of this start have in common, and none of an earlier one.

    Rank 0 calls; each rank answers with a number of its own; rank 0 lists those that it received. A rank
    that is not on the list has heard a call of an earlier start, and listens again. Raises DistStoreError
    that names those who do not come within `timeout`.
    """
    own, patience = uuid.uuid4().hex, _Patience(timeout)
    if rank == 0:
        store.set("call", own)
        answers: dict[int, str] = {}
        while missing := _missing(store, own, answers, world_size):
            names = f"rank{'s' * (len(missing) > 1)} {', '.join(map(str, missing))} of {world_size}"
            if not patience.lasts(names):
                raise DistStoreError(f"{names} did not come within {patience.seconds:.0f} s")
        store.set(f"{own}/list", " ".join(answers.values()))
        return own
    while patience.lasts("rank 0"):
        if not store.check(["call"]):
            continue
        call = store.get("call").decode()
        store.set(f"{call}/{rank}", own)
        time.sleep(PAUSE)
        if store.check([f"{call}/list"]) and own in store.get(f"{call}/list").decode().split():
            return call
    raise DistStoreError(f"rank {rank}: rank 0 did not come within {patience.seconds:.0f} s")


def _missing(store: Store, call: str, answers: dict[int, str], world_size: int) -> list[int]:
    """The ranks that have not answered yet; what the others answered joins `answers`."""
    for other in range(1, world_size):
        if other not in answers and store.check([f"{call}/{other}"]):
            answers[other] = store.get(f"{call}/{other}").decode()
    return [other for other in range(1, world_size) if other not in answers]


def _connect(rank: int, world_size: int, timeout: timedelta) -> TCPStore:
    """The store at MASTER_ADDR and MASTER_PORT, kept by the launcher or else by rank 0."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    keeps_it = rank == 0 and not _launcher_keeps_store()
    if not keeps_it:
        _await_listener(rank, host, port, timeout)
    try:
        return TCPStore(
            host,
            port,
            world_size,
            is_master=keeps_it,
            timeout=timeout,
            wait_for_workers=False,
            multi_tenant=True,
        )
    except DistNetworkError as error:
        first_line = str(error).splitlines()[0]
        what = "listen at" if keeps_it else "use what listens at"
        raise UserError(
            f"rank {rank} cannot {what} {host}:{port}: {first_line}; set MASTER_PORT, or the launcher's"
            " --main_process_port or --master-port, to a free port"
        ) from None


def _await_listener(rank: int, host: str, port: int, timeout: timedelta) -> None:
    """Wait until rank 0, or its launcher, listens: torch's own attempts could not be interrupted."""
    patience = _Patience(timeout)
    while True:
        try:
            socket.create_connection((host, port), CONNECT_S).close()
            return
        except OSError as error:
            if not patience.lasts(f"rank 0 at {host}:{port}"):
                raise RunError(
                    f"rank {rank} did not reach rank 0 at {host}:{port} (MASTER_ADDR, MASTER_PORT) within"
                    f" {patience.seconds:.0f} s: {error.strerror or error}"
                ) from None


def _meet(url: str, timeout: timedelta, **options: Any) -> Iterator[tuple[Store, int, int]]:
    """By the environment variables that torch itself uses, below a name of this start."""
    rank, world_size = distributed.rank(), distributed.world_size()
    store = _connect(rank, world_size, timeout)
    try:
        name = agree(store, rank, world_size, timeout)
    except DistStoreError as error:
        raise RunError(f"the processes did not connect: {error}; is each of them running?") from None
    yield PrefixStore(name, store), rank, world_size


register_rendezvous_handler(SCHEME, _meet)
