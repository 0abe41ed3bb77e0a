"""The most that a device could do: lines to hold a measured speed against.

Networks of this design space are bound by memory traffic: each operation reads and writes feature maps for
little arithmetic. The bandwidth line counts the feature maps that pass between memory and arithmetic when
nothing is fused, for each activation (an output of a convolution, as pycls counts them):

- forward: the convolution reads and writes one, batch norm too, ReLU too;
- training: the convolution 6 (forward 2; its two gradients read 3 and write 1), batch norm 8 (it reads its
  input, and later the gradient too, twice), ReLU 5.

A CPU's lines are one core's, for images in a second of processor time: other processes then count for
little. Weights are left out, as they are small beside the feature maps of a batch. Code that fuses operations
can go beyond the line.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import torch

from anynet_dist.models.complexity import Complexity
from anynet_dist.system.ranges import Precision
from anynet_dist.training.mfu import device_peak

Pass = Literal["forward", "train"]

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
FEATURE_MAPS_MOVED: dict[Pass, int] = {"forward": 6, "train": 19}
"""Feature maps read and written for each activation."""
FLOPS: dict[Pass, int] = {"forward": 2, "train": 6}
"""For each multiply-add of the forward pass; the backward pass costs two forward passes."""
BANDWIDTH = {
    "B200": 8.0e12,
    "H200": 4.8e12,
    "GH200": 4.0e12,
    "H100 PCIe": 2.0e12,
    "H100": 3.35e12,
    "A100-PCIE-40GB": 1.555e12,
    "A100-SXM4-40GB": 1.555e12,
    "A100": 2.039e12,
    "A10G": 600e9,
    "A10": 600e9,
    "A40": 696e9,
    "L40S": 864e9,
    "L4": 300e9,
    "V100": 900e9,
    "T4": 320e9,
    "RTX 4090": 1008e9,
    "RTX 3090": 936e9,
    "MI300X": 5.3e12,
    "MI250": 3.2768e12,
}
"""Bytes a second of a device's memory by a part of its name, from the makers' data sheets."""
COPIED_BYTES = 2**26
MATRIX_SIDE = {"cpu": 512, "cuda": 4096}
REPEATS = 5


def bandwidth_line(
    cost: Complexity, precision: Precision, work: Pass, bytes_per_second: float
) -> float | None:
    """Images a second at which unfused operations take all of the memory's bandwidth; None where the
    network's activations are not known."""
    if not cost.acts:
        return None
    return bytes_per_second / (FEATURE_MAPS_MOVED[work] * DTYPES[precision].itemsize * cost.acts)


def arithmetic_line(cost: Complexity, work: Pass, flops_per_second: float) -> float | None:
    """Images a second at which multiply-adds take all of the arithmetic; None where they are not known."""
    return flops_per_second / (FLOPS[work] * cost.flops) if cost.flops else None


def memory_bandwidth(device: torch.device) -> tuple[float, str]:
    """Bytes a second that the memory moves, reading and writing, and where the figure is from.

    That of a CPU is one core's, in a second of its own time.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = [part for part in BANDWIDTH if part in name]
        if known:
            return BANDWIDTH[max(known, key=len)], "data sheet"
    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / _fastest(lambda: target.copy_(source), device), "measured by a copy"


def peak_arithmetic(device: torch.device, precision: Precision) -> tuple[float, str]:
    """FLOP/s of matrix products in the precision, and where the figure is from; of a CPU as above."""
    peak = device_peak(device, precision)
    if peak:
        return peak, "data sheet"
    side = MATRIX_SIDE[device.type]
    matrix = torch.ones(side, side, device=device, dtype=DTYPES[precision])
    return 2 * side**3 / _fastest(lambda: matrix @ matrix, device), "measured by a matrix product"


def _fastest(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of several calls: others can only slow them down. On a CPU one thread's own."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            return time.perf_counter()
        return time.process_time()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = []
        for _ in range(REPEATS + 1):
            started = clock()
            call()
            seconds.append(clock() - started)
        return min(seconds[1:])
    finally:
        torch.set_num_threads(threads)
