"""Copies of tensors in host memory, made beside the work that goes on with the originals."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import count
from typing import Any, TypeVar

import torch
from torch import Tensor

Tree = TypeVar("Tree")
"""Tensors and other values, in dicts, lists and tuples."""


class HostCopy:
    """Copies trees of tensors into buffers in host memory that are kept for the next copy of such a tree.

    Fresh memory would cost more than the copying. Buffers for tensors of a GPU are pinned, so that the host
    need not wait for the copy: it runs on the GPU's current stream, after the work that is queued there and
    before what comes next, which may change the originals.
    """

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []

    def allocate(self, tree: object) -> None:
        """Make the buffers for such a tree. Raises RuntimeError where the memory does not suffice."""
        for number, tensor in enumerate(_tensors(tree)):
            self._buffer(number, tensor)

    @torch.no_grad()
    def copy(self, tree: Tree) -> tuple[Tree, Callable[[], None]]:
        """A copy of the tree as it is now, and what to call, on any thread, before reading its tensors.

        Everything in the tree is copied. Valid until the next copy. Raises RuntimeError as `allocate` does.
        """
        on_gpu = False
        number = count()

        def copied(value: Any) -> Any:
            nonlocal on_gpu
            if isinstance(value, Tensor):
                on_gpu = on_gpu or value.is_cuda
                return self._buffer(next(number), value).copy_(value, non_blocking=value.is_cuda)
            if isinstance(value, dict):
                return {key: copied(entry) for key, entry in value.items()}
            if isinstance(value, list):
                return [copied(entry) for entry in value]
            if isinstance(value, tuple):
                entries = tuple(copied(entry) for entry in value)
                unchanged = all(one is other for one, other in zip(entries, value, strict=True))
                return value if unchanged else entries
            return deepcopy(value)

        return copied(tree), _recorded() if on_gpu else _nothing

    def _buffer(self, number: int, tensor: Tensor) -> Tensor:
        """The buffer for the tensor that is the n-th of its tree: the one from before where it fits."""
        if number == len(self._buffers):
            self._buffers.append(_memory_for(tensor))
        elif not _alike(self._buffers[number], tensor):
            self._buffers[number] = _memory_for(tensor)
        return self._buffers[number]


def _recorded() -> Callable[[], None]:
    """Waits for what is queued on the GPU now."""
    event = torch.cuda.Event()
    event.record()
    return event.synchronize


def _nothing() -> None:
    """A copy that the host has made is there."""


def _tensors(tree: object) -> list[Tensor]:
    """The tensors of a tree, each as often as it occurs."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, (list, tuple)):
        return []
    return [tensor for value in tree for tensor in _tensors(value)]


def _memory_for(tensor: Tensor) -> Tensor:
    """Host memory for a tensor, written to once: only then does the system hand it out."""
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda, requires_grad=False).zero_()


def _alike(buffer: Tensor, tensor: Tensor) -> bool:
    return (buffer.shape, buffer.dtype, buffer.stride()) == (tensor.shape, tensor.dtype, tensor.stride())
