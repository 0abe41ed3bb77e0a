"""How fast a network's step is in each of the ways to run it, and how near to what the device could do."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import nn

from anynet_dist.bench.limits import (
    Pass,
    arithmetic_line,
    bandwidth_line,
    memory_bandwidth,
    peak_arithmetic,
)
from anynet_dist.bench.peer_networks import MissingPeerError, peer_network
from anynet_dist.bench.results import Row, compare, speed
from anynet_dist.bench.rounds import alternate
from anynet_dist.bench.steps import Step, Variant
from anynet_dist.models.anynet import build_anynet
from anynet_dist.models.complexity import check_resolution, network_complexity
from anynet_dist.models.vocabulary import network_spec
from anynet_dist.system.errors import UserError
from anynet_dist.system.ranges import Precision
from anynet_dist.training.compilation import compile_problem

OURS = "ours"


@dataclass(frozen=True, kw_only=True)
class ModelSetting:
    """What is measured."""

    model: dict[str, Any]
    """The network as arguments of `build_anynet`, with its number of classes."""
    resolution: int
    batch: int
    passes: tuple[Pass, ...]
    precisions: tuple[Precision, ...]
    memory_formats: tuple[str, ...]
    compile: tuple[str, ...]
    peers: tuple[str, ...] = ()
    rounds: int = 5
    steps: int = 1
    """Steps of each variant in a round."""

    @property
    def variants(self) -> Iterator[Variant]:
        """All combinations."""
        ways = (self.passes, self.compile, self.memory_formats, self.precisions, (OURS, *self.peers))
        for work, compiled, memory_format, precision, network in product(*ways):
            yield Variant(
                network=network,
                work=work,
                compile=compiled,
                memory_format=memory_format,
                precision=precision,
            )


@dataclass(frozen=True)
class ModelResult:
    """A row for each variant, what the device could do, and what was left out, a sentence each."""

    rows: list[Row]
    limits: dict[str, Any]
    notes: list[str]


def bench_model(setting: ModelSetting, device: torch.device) -> ModelResult:
    """Measure every variant: all are made and warm before the first round.

    Raises UserError where the network cannot be built, the device cannot compile, or nothing fits.
    """
    spec = network_spec(**setting.model)
    check_resolution(spec, setting.resolution)
    setting, notes = _possible(setting, device)
    networks = _networks(setting, notes)
    shape = (setting.batch, spec.stem.width_in, setting.resolution, setting.resolution)
    made = _warm_steps(setting, networks, torch.rand(shape, device=device), notes)
    if not made:
        raise UserError(f"nothing could be measured: {'; '.join(notes)}")
    subjects = {str(number): partial(step.run, setting.steps) for number, (step, _) in enumerate(made)}
    timings = alternate(subjects, setting.rounds)
    limits, rows = _limits(setting, device), [row for _, row in made]
    for row, timing in zip(rows, timings.values(), strict=True):
        row |= speed(setting.batch * setting.steps, timing)
        row |= _shares(row, limits, device)
    compare(rows, "work")
    return ModelResult(rows, limits, notes)


def _networks(setting: ModelSetting, notes: list[str]) -> dict[str, nn.Module]:
    """Our network and those of the peers that have it."""
    networks: dict[str, nn.Module] = {OURS: build_anynet(**setting.model)}
    for peer in setting.peers:
        try:
            networks[peer] = peer_network(peer, setting.model.get("preset"), setting.model["num_classes"])
        except MissingPeerError as error:
            notes.append(str(error))
    return networks


def _warm_steps(
    setting: ModelSetting, networks: dict[str, nn.Module], images: torch.Tensor, notes: list[str]
) -> list[tuple[Step, Row]]:
    """A step for each variant that can be measured, with the seconds of its first one and its memory."""
    made = []
    for variant in setting.variants:
        if variant.network not in networks:
            continue
        if variant.compile == "regional" and variant.network != OURS:
            notes.append(f"{variant.network} is not compiled by regions, which are our network's blocks")
            continue
        try:
            step, facts = _made(deepcopy(networks[variant.network]), variant, images, setting)
        except torch.OutOfMemoryError:
            notes.append(f"out of memory: {', '.join(map(str, asdict(variant).values()))}")
            continue
        made.append((step, asdict(variant) | facts))
    return made


def _possible(setting: ModelSetting, device: torch.device) -> tuple[ModelSetting, list[str]]:
    """The setting without what this device does not do."""
    notes = []
    if device.type != "cuda" and "reduce-overhead" in setting.compile:
        setting = replace(setting, compile=tuple(filter("reduce-overhead".__ne__, setting.compile)))
        notes.append("reduce-overhead is left out: CUDA graphs need a GPU")
    compiled = [mode for mode in setting.compile if mode != "off"]
    problem = compile_problem(device.type) if compiled else None
    if problem:
        raise UserError(f"--compile {' '.join(compiled)} does not work on this machine: {problem}")
    return setting, notes


def _made(
    network: nn.Module, variant: Variant, images: torch.Tensor, setting: ModelSetting
) -> tuple[Step, Row]:
    """A warm step, with the seconds of its first one and the memory that it takes."""
    on_gpu = images.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_gpu else 0
    step = Step(network, variant, images, setting.model["num_classes"])
    first = step.warm_up()
    peak = (torch.cuda.max_memory_allocated() - before) / 2**30 if on_gpu else None
    return step, {"first_step_seconds": first, "peak_memory_gib": peak}


def _limits(setting: ModelSetting, device: torch.device) -> dict[str, Any]:
    """What the device could do at most, and with this network."""
    cost = network_complexity(network_spec(**setting.model), setting.resolution)
    bandwidth, source = memory_bandwidth(device)
    limits: dict[str, Any] = {
        "bandwidth_bytes_per_second": bandwidth,
        "bandwidth_source": source,
        "flops": cost.flops,
        "acts": cost.acts,
    }
    for precision in setting.precisions:
        peak, source = peak_arithmetic(device, precision)
        limits[precision] = {"flops_per_second": peak, "source": source}
        for work in setting.passes:
            limits[precision][work] = {
                "bandwidth_images_per_second": bandwidth_line(cost, precision, work, bandwidth),
                "arithmetic_images_per_second": arithmetic_line(cost, work, peak),
            }
    return limits


def _shares(row: Row, limits: dict[str, Any], device: torch.device) -> Row:
    """The speed over the lines: of a GPU its speed, of a CPU that of a core."""
    lines = limits[row["precision"]][row["work"]]
    speed = row["images_per_second" if device.type == "cuda" else "images_per_cpu_second"]
    names = {"mfu": "arithmetic", "bandwidth_share": "bandwidth"}
    return {
        name: line and speed / line
        for name, kind in names.items()
        for line in [lines[f"{kind}_images_per_second"]]
    }
