"""A step of one network in one of the ways to run it, made of the parts that training uses."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from anynet_dist.bench.limits import DTYPES, Pass
from anynet_dist.config.schema import OptimConfig
from anynet_dist.system.ranges import Precision
from anynet_dist.training.compilation import compile_network
from anynet_dist.training.memory_format import FORMATS
from anynet_dist.training.optim.optimizers import build_optimizer

LEARNING_RATE = 0.01
WARM_UP_STEPS = {"cpu": 1, "cuda": 3}
"""CUDA graphs are recorded in the second step."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to run a network."""

    network: str
    """`ours`, or the library whose network of the same name it is."""
    work: Pass
    compile: str
    memory_format: str
    precision: Precision


class Step:
    """A network on its device with images, labels and optimizer.

    A training step is forward, cross-entropy, backward and the update by our default optimizer; a forward
    step is that of an evaluation. As in training, nothing waits for the device between steps.
    """

    def __init__(self, network: nn.Module, variant: Variant, images: torch.Tensor, classes: int) -> None:
        """`images` are (N, C, H, W) on the device, which the network, in its place, is moved to."""
        memory_format = FORMATS[variant.memory_format]
        self.variant, self.device = variant, images.device
        self.network = network.to(self.device).to(memory_format=memory_format)
        self.network.train(variant.work == "train")
        self.images = images.to(memory_format=memory_format)
        self.labels = torch.arange(len(images), device=self.device) % classes
        compile_network(self.network, variant.compile)
        self.optimizer = build_optimizer(self.network, OptimConfig(lr=LEARNING_RATE), fused=True)

    def warm_up(self) -> float:
        """Run until nothing is compiled or measured any more; the seconds of the first step."""
        started = time.perf_counter()
        self.run(1)
        first = time.perf_counter() - started
        self.run(WARM_UP_STEPS[self.device.type] - 1)
        return first

    def run(self, steps: int) -> None:
        """Do steps, and wait for the device at the end."""
        for _ in range(steps):
            if self.variant.work == "train":
                self._train()
            else:
                self._forward()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _train(self) -> None:
        F.cross_entropy(self._outputs(), self.labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _forward(self) -> None:
        with torch.no_grad():
            self._outputs()

    def _outputs(self) -> torch.Tensor:
        dtype = DTYPES[self.variant.precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype is not torch.float32):
            outputs: torch.Tensor = self.network(self.images)
        return outputs.float()
