"""Model FLOP/s utilisation (Chowdhery et al., 2022, PaLM, appendix B): the fraction of a device's peak that a
network's arithmetic takes."""

from __future__ import annotations

import torch

# Dense 16-bit tensor-core FLOP/s by a part of the device's name, from the makers' data sheets.
PEAK_16_BIT = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "GH200": 989e12,
    "A100": 312e12,
    "A10G": 70e12,
    "A10": 125e12,
    "A40": 150e12,
    "L40S": 362e12,
    "L4": 121e12,
    "V100": 125e12,
    "T4": 65e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "MI300X": 1307e12,
    "MI250": 383e12,
}
# Convolutions in fp32 run as TF32 where there is one: half of the 16-bit peak.
HAVE_TF32 = ("B200", "H200", "H100 PCIe", "H100", "GH200", "A100", "A10G", "A10", "A40", "L40S", "L4", "RTX")


def peak_flops(device_name: str, precision: str) -> float | None:
    """Peak FLOP/s of a device in the precision `bf16`, `fp16` or `fp32`; None where it is not known."""
    found = next((name for name in sorted(PEAK_16_BIT, key=len, reverse=True) if name in device_name), None)
    if found is None:
        return None
    if precision != "fp32":
        return PEAK_16_BIT[found]
    return PEAK_16_BIT[found] / 2 if found.startswith(HAVE_TF32) else None


def device_peak(device: torch.device, precision: str) -> float | None:
    """As `peak_flops`, for a device of this machine."""
    if device.type != "cuda":
        return None
    return peak_flops(torch.cuda.get_device_name(device), precision)


def training_flops(forward: int) -> int:
    """FLOPs of one image's forward and backward pass from the multiply-adds of its forward pass.

    Two FLOPs per multiply-add; the backward pass costs two forward passes.
    """
    return 3 * 2 * forward


def utilisation(forward: int, images_per_second: float, peak: float) -> float:
    """The fraction of one device's peak FLOP/s that `images_per_second` on that device take."""
    return training_flops(forward) * images_per_second / peak
