"""Copies of tensors in host memory, made beside the work that goes on with the originals."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import TypeVar

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
        """Have buffers for the tensors of a tree, those that fit from before. Raises RuntimeError where the
        memory does not suffice."""
        self._fit(_tensors(tree))

    def _fit(self, tensors: list[Tensor]) -> None:
        del self._buffers[len(tensors) :]
        for number, tensor in enumerate(tensors):
            if number == len(self._buffers):
                self._buffers.append(_buffer(tensor))
            elif not _alike(self._buffers[number], tensor):
                self._buffers[number] = _buffer(tensor)

    @torch.no_grad()
    def copy(self, tree: Tree) -> tuple[Tree, Callable[[], None]]:
        """A copy of the tree as it is now, and what to call, on any thread, before reading its tensors.

        Everything in the tree is copied. Valid until the next copy.
        """
        tensors = _tensors(tree)
        self._fit(tensors)
        for buffer, tensor in zip(self._buffers, tensors, strict=True):
            buffer.copy_(tensor, non_blocking=tensor.is_cuda)
        copies = {id(tensor): buffer for tensor, buffer in zip(tensors, self._buffers, strict=True)}
        ready = _nothing
        if any(tensor.is_cuda for tensor in tensors):
            event = torch.cuda.Event()
            event.record()
            ready = event.synchronize
        return deepcopy(tree, copies), ready


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


def _buffer(tensor: Tensor) -> Tensor:
    """Host memory for a tensor, written to once: only then does the system hand it out."""
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda, requires_grad=False).zero_()


def _alike(buffer: Tensor, tensor: Tensor) -> bool:
    return (buffer.shape, buffer.dtype, buffer.stride()) == (tensor.shape, tensor.dtype, tensor.stride())
