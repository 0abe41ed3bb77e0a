"""Copies of tensors in host memory."""

from typing import Any

import pytest
import torch

from anynet_dist.training.host_copy import HostCopy


def tree(value: float) -> dict[str, Any]:
    """What an optimizer's state looks like."""
    weight = torch.full((2, 3, 4, 4), value).to(memory_format=torch.channels_last)
    return {
        "state": {
            0: {"momentum_buffer": weight, "step": int(value)},
            1: {"pair": (torch.tensor(value), "x")},
        },
        "param_groups": [{"lr": value, "betas": (0.9, 0.999), "params": [0, 1]}],
    }


def test_a_copy_stays_what_it_was_when_everything_in_the_original_changes() -> None:
    original = tree(1.0)
    copy, ready = HostCopy().copy(original)
    original["state"][0]["momentum_buffer"].add_(1)
    original["state"][0]["step"] += 1
    original["state"][1]["pair"][0].add_(1)
    original["param_groups"][0]["lr"] = 2.0
    ready()
    expected = tree(1.0)
    assert torch.equal(copy["state"][0]["momentum_buffer"], expected["state"][0]["momentum_buffer"])
    assert copy["state"][0]["momentum_buffer"].is_contiguous(memory_format=torch.channels_last)
    assert copy["state"][0]["step"] == 1
    assert copy["state"][1]["pair"] == (torch.tensor(1.0), "x")
    assert copy["param_groups"] == expected["param_groups"]


def test_the_next_copy_goes_to_the_same_memory_and_one_of_another_shape_to_its_own() -> None:
    copies = HostCopy()
    copies.allocate(tree(0.0))
    first, _ = copies.copy(tree(1.0))
    place = first["state"][0]["momentum_buffer"].data_ptr()
    second, _ = copies.copy(tree(2.0))
    assert second["state"][0]["momentum_buffer"].data_ptr() == place
    assert second["state"][0]["momentum_buffer"].unique().tolist() == [2.0]
    other, _ = copies.copy({"a": torch.ones(3), "b": torch.ones(2, dtype=torch.int64)})
    assert [other["a"].tolist(), other["b"].tolist()] == [[1.0, 1.0, 1.0], [1, 1]]


def test_a_tensor_that_occurs_twice_and_one_that_needs_gradients_are_copied() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    copy, _ = HostCopy().copy({"a": weight, "b": weight})
    assert copy["a"].tolist() == copy["b"].tolist() == [1.0, 1.0]
    assert not copy["a"].requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_goes_on_at_once_and_the_copy_is_of_before() -> None:
    weight = torch.zeros(2**26, device="cuda")
    copy, ready = HostCopy().copy([weight])
    weight.add_(1)
    ready()
    assert copy[0].is_pinned()
    assert not copy[0].any()
