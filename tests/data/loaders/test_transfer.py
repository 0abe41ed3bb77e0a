"""The copy of the next batch beside the step: the same batches, from memory that is used again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from anynet_dist.data.loaders.transfer import Transfer, transferred
from anynet_dist.system.errors import UserError

TRANSFER = Transfer(torch.device("cpu"), (0, 0, 0), (1 / 255,) * 3)


def one_buffer(count: int, fails: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in one buffer, each valid until the next is asked for."""
    buffer = torch.empty(2, 4, 4, 3, dtype=torch.uint8)
    for number in range(count):
        yield buffer.fill_(number), torch.tensor([number, number])
    if fails:
        raise UserError("damaged")


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_batches_come_whole_and_in_order(ahead: bool, count: int) -> None:
    batches = list(transferred(one_buffer(count), TRANSFER, ahead))
    assert [int(labels[0]) for _, labels in batches] == list(range(count))
    for number, (images, _) in enumerate(batches):
        assert torch.equal(images, torch.full((2, 3, 4, 4), float(number)))


def test_ahead_of_its_use_is_one_batch_and_no_more() -> None:
    asked: list[int] = []

    def watched() -> Iterator[tuple[Tensor, Tensor]]:
        for number, batch in enumerate(one_buffer(5)):
            asked.append(number)
            yield batch

    for ahead, expected in ((False, [0]), (True, [0, 1])):
        asked.clear()
        batches = transferred(watched(), TRANSFER, ahead)
        next(batches)
        assert asked == expected


@pytest.mark.parametrize("ahead", [False, True])
def test_an_error_is_raised_after_the_batches_before_it(ahead: bool) -> None:
    received: list[int] = []
    with pytest.raises(UserError, match="damaged"):
        received.extend(int(labels[0]) for _, labels in transferred(one_buffer(3, True), TRANSFER, ahead))
    assert received == [0, 1, 2]
