"""Ranks that were started anew meet each other, whatever their predecessors left in the store."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch._C._distributed_c10d import HashStore
from torch.distributed import DistStoreError

from anynet_dist.training.distributed.rendezvous import agree

TIMEOUT = timedelta(seconds=20)


def meet(store: HashStore, order: tuple[int, ...] = (0, 1, 2)) -> set[str]:
    """The names that three ranks agree on, when they come in this order."""
    with ThreadPoolExecutor(3) as ranks:
        names = [ranks.submit(agree, store, rank, 3, TIMEOUT) for rank in order]
        return {name.result() for name in names}


def test_every_start_has_one_name_of_its_own() -> None:
    store = HashStore()
    starts = [meet(store) for _ in range(3)]
    assert all(len(names) == 1 for names in starts)
    assert len(set.union(*starts)) == 3


def test_rank_0_may_come_last() -> None:
    store = HashStore()
    first = meet(store)
    assert len(second := meet(store, (1, 2, 0))) == 1
    assert second != first


def test_a_rank_alone_with_an_earlier_start_does_not_take_its_name() -> None:
    store = HashStore()
    meet(store)
    with pytest.raises(DistStoreError, match="rank 1: rank 0 did not come within 1 s"):
        agree(store, 1, 3, timedelta(seconds=1))
