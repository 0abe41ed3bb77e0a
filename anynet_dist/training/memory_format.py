"""The memory format of images and weights: measured once for a network on a machine, then remembered.

Channels-last is often faster and sometimes much slower, with grouped convolutions above all, and the two
give different bits. So the choice must not depend on what else the machine does: it is measured in a way
that other processes hardly disturb, and kept in the cache folder for all later runs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from anynet_dist.system.cache import cache_folder
from anynet_dist.system.environment import cpu_model
from anynet_dist.system.files import write_json
from anynet_dist.training.distributed.rank_zero import rank_zero_decides

logger = logging.getLogger(__name__)

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
ROUNDS = 5
CPU_BATCH, GPU_BATCH = 4, 64
CLEARLY_FASTER = 0.95
"""Channels-last is taken where it needs at most this fraction of the time: near ties are decided by rule."""
CACHE_FILE = "memory_format.json"

ImageShape = tuple[int, int, int, int]


def choose_memory_format(
    asked: str, network: nn.Module, accelerator: Accelerator, shape: ImageShape
) -> tuple[torch.memory_format, str]:
    """The memory format to train in, and the reason; called on every rank, decided by rank 0.

    `shape` is that of a batch on one device, (N, C, H, W). Raises nothing where the cache folder cannot be
    used: then it is measured again.
    """
    if asked != "auto":
        return FORMATS[asked], "as configured"
    name, reason = rank_zero_decides(lambda: _choose(network, accelerator, shape))
    return FORMATS[name], reason


def format_name(memory_format: torch.memory_format) -> str:
    """`contiguous` or `channels_last`, as in the config."""
    return next(name for name, value in FORMATS.items() if value == memory_format)


def _choose(network: nn.Module, accelerator: Accelerator, shape: ImageShape) -> tuple[str, str]:
    file, key = cache_folder() / CACHE_FILE, _key(network, accelerator, shape)
    known = _read(file)
    if known.get(key) in FORMATS:
        return known[key], f"remembered for this network, device and batch in {file}"
    seconds = measure(network, accelerator, shape)
    faster = seconds["channels_last"] <= CLEARLY_FASTER * seconds["contiguous"]
    name = "channels_last" if faster else "contiguous"
    try:
        write_json(file, {**_read(file), key: name})
        kept = f"kept in {file}"
    except OSError as error:
        kept = f"it cannot be kept, {error.filename}: {error.strerror}"
    times = ", ".join(f"{each} {1000 * value:.1f} ms" for each, value in seconds.items())
    return name, f"a training step took: {times} ({kept})"


def _read(file: Path) -> dict[str, str]:
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _key(network: nn.Module, accelerator: Accelerator, shape: ImageShape) -> str:
    """What the speed depends on: device, versions, precision, layers and batch."""
    device = accelerator.device
    layers = [repr(module) for module in network.modules() if not list(module.children())]
    facts: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model(),
        "torch": torch.__version__,
        "precision": accelerator.mixed_precision,
        "layers": hashlib.sha256("\n".join(layers).encode()).hexdigest(),
        "shape": _probe_shape(accelerator, shape),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _probe_shape(accelerator: Accelerator, shape: ImageShape) -> ImageShape:
    most = GPU_BATCH if accelerator.device.type == "cuda" else CPU_BATCH
    return (min(shape[0], most), *shape[1:])


def measure(network: nn.Module, accelerator: Accelerator, shape: ImageShape) -> dict[str, float]:
    """Seconds of a forward and backward pass in each format: medians over interleaved rounds.

    On a CPU the work of a single thread is measured, in its own processor time, which advances only while the
    thread does: other processes then count for little.
    """
    shape = _probe_shape(accelerator, shape)
    copies = {
        name: deepcopy(network).to(accelerator.device).to(memory_format=memory_format).train()
        for name, memory_format in FORMATS.items()
    }
    times: dict[str, list[float]] = {name: [] for name in FORMATS}
    with _quiet():
        for number in range(ROUNDS + 1):
            for name, copy in copies.items():
                images = torch.zeros(shape, device=accelerator.device).to(memory_format=FORMATS[name])
                seconds = _time_step(copy, images, accelerator)
                if number:  # the first round is a warm-up
                    times[name].append(seconds)
    return {name: median(values) for name, values in times.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """One thread, and the random numbers as they were."""
    threads, rng_state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(rng_state)


def _time_step(network: nn.Module, images: torch.Tensor, accelerator: Accelerator) -> float:
    def clock() -> float:
        if images.is_cuda:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    started = clock()
    with accelerator.autocast():
        loss = network(images).float().square().mean()
    loss.backward()
    return clock() - started
