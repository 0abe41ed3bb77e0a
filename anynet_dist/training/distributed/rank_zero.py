"""Rank 0 decides for all ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from accelerate.utils import broadcast_object_list

from anynet_dist.system import distributed
from anynet_dist.system.errors import UserError

Result = TypeVar("Result")


def rank_zero_decides(decide: Callable[[], Result]) -> Result:
    """What `decide` returns on rank 0, on every rank; called on every rank of connected processes.

    Raises on every rank the UserError that `decide` raises on rank 0.
    """
    outcome: list[Result | UserError | None] = [None]
    if distributed.is_main():
        try:
            outcome = [decide()]
        except UserError as error:
            outcome = [error]
    (result,) = broadcast_object_list(outcome)
    if isinstance(result, UserError):
        raise result
    decided: Result = result
    return decided
