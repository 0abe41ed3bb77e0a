"""How ranks meet, also after a launcher has started them anew.

torchrun and accelerate keep one store for all starts of their processes. What the ranks of an earlier
start told each other is still in it, so that a rank of this one could read the address of a rank that is
dead. Here those that live agree on a name first, below which they then meet.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from torch.distributed import DistStoreError
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import register_rendezvous_handler, rendezvous

SCHEME = "restarted"
# Between two looks into the store.
PAUSE = 0.05


def arguments() -> dict[str, Any]:
    """What torch's `init_process_group` is to be given: nothing unless a launcher keeps the store."""
    # Set by torch's launcher, on which accelerate's is built.
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
    return {"init_method": f"{SCHEME}://"} if kept else {}


def agree(store: Store, rank: int, world_size: int, timeout: timedelta) -> str:
    """A name that the ranks of this start have in common, and none of an earlier one.

    Rank 0 calls; each rank answers with a number of its own; rank 0 lists those that it received. A rank
    that is not on the list has heard a call of an earlier start, and listens again. Raises DistStoreError
    when the others do not come within `timeout`.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        store.set("call", own)
        answers = [store.get(f"{own}/{other}").decode() for other in range(1, world_size)]
        store.set(f"{own}/list", " ".join(answers))
        return own
    deadline = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < deadline:
        call = store.get("call").decode()
        store.set(f"{call}/{rank}", own)
        time.sleep(PAUSE)
        if store.check([f"{call}/list"]) and own in store.get(f"{call}/list").decode().split():
            return call
    raise DistStoreError(f"rank {rank}: rank 0 did not come within {timeout.total_seconds():.0f} s")


def _meet(url: str, timeout: timedelta, **options: Any) -> Iterator[tuple[Store, int, int]]:
    """torch's own way by environment variables, below a name of this start."""
    for store, rank, world_size in rendezvous(f"env{url.removeprefix(SCHEME)}", timeout=timeout, **options):
        yield PrefixStore(agree(store, rank, world_size, timeout), store), rank, world_size


register_rendezvous_handler(SCHEME, _meet)
