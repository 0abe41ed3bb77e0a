from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def hooked() -> Callable[[nn.Module, Tensor], tuple[int, int, int]]:
    """Params, flops and acts of a module, seen by hooks while it runs on one image."""

    def count(module: nn.Module, image: Tensor) -> tuple[int, int, int]:
        seen = {"flops": 0, "acts": 0}

        def see(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen["acts"] += output.numel()
            if isinstance(layer, nn.Conv2d):
                area = layer.kernel_size[0] * layer.kernel_size[1]
                seen["flops"] += output.numel() * area * inputs[0].shape[1] // layer.groups
            elif isinstance(layer, nn.Linear):
                seen["flops"] += output.numel() * inputs[0].shape[1]
            if getattr(layer, "bias", None) is not None:
                seen["flops"] += output.numel()

        layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.MaxPool2d)]
        handles = [layer.register_forward_hook(see) for layer in layers]
        with torch.no_grad():
            module.eval()(image)
        for handle in handles:
            handle.remove()
        return sum(p.numel() for p in module.parameters()), seen["flops"], seen["acts"]

    return count


@pytest.fixture
def plugin_file(tmp_path: Path) -> Callable[[str], Path]:
    """Write a plug-in's source to a file of its own."""

    def write(source: str, name: str = "my_blocks.py") -> Path:
        path = tmp_path / name
        path.write_text(source, encoding="utf-8")
        return path

    return write


@pytest.fixture
def randomise_norms() -> Callable[[nn.Module], None]:
    """Give every batch norm weights and statistics that differ from each other."""

    def randomise(network: nn.Module) -> None:
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                tensors: list[Any] = [layer.weight, layer.bias, layer.running_mean, layer.running_var]
                for tensor in tensors:
                    nn.init.uniform_(tensor, 0.5, 1.5)

    return randomise
