"""How long saving a checkpoint keeps training waiting, in the background and otherwise."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from anynet_dist.config import Config
from anynet_dist.config.schema import CheckpointConfig, OptimConfig
from anynet_dist.models.anynet import build_anynet
from anynet_dist.runs.checkpoints import Checkpoints
from anynet_dist.runs.folder import RunFolder
from anynet_dist.runs.metrics_log import RunLog
from anynet_dist.runs.progress import Progress, RunContext
from anynet_dist.training.checkpointing import RunState
from anynet_dist.training.classification import RunningClassificationScores
from anynet_dist.training.optim.ema import WeightAverage
from anynet_dist.training.optim.optimizers import build_optimizer
from anynet_dist.training.saver import Saver

WAYS = {"the steps wait": False, "beside the steps": True}
"""How a checkpoint is written, and checkpoint.in_background for that."""


@dataclass(frozen=True, kw_only=True)
class CheckpointSetting:
    """What is saved, where, and how often."""

    model: dict[str, Any]
    """Arguments of `build_anynet`."""
    ema: bool
    folder: Path
    """Checkpoints are written to a folder in it, which is removed."""
    rounds: int


@dataclass
class _Timing:
    """Seconds of each round."""

    block: list[float] = field(default_factory=list)
    block_cpu: list[float] = field(default_factory=list)
    """Processor time of the thread that trains."""
    total: list[float] = field(default_factory=list)
    """Until the checkpoint counts."""
    total_cpu: list[float] = field(default_factory=list)
    """Processor time of all threads."""


def bench_checkpoint(setting: CheckpointSetting, device: torch.device) -> list[dict[str, Any]]:
    """A row for each way to save, in the order of WAYS: medians, and the seconds of each round.

    One state is saved in both ways in turn, every second round in the opposite order; between two saves all
    weights change. No step runs meanwhile. The first save of each way, which is not timed, makes the buffers.
    """
    with tempfile.TemporaryDirectory(dir=setting.folder, prefix=".bench_checkpoint") as folder:
        state = _trained_state(setting, device)
        timings = {way: _Timing() for way in WAYS}
        with _savers(state, RunFolder(Path(folder))) as savers:
            for saver in savers.values():
                _save(saver, _Timing(), device)
            for number in range(setting.rounds):
                for way in reversed(savers) if number % 2 else savers:
                    _save(savers[way], timings[way], device)
            size = _size(Path(folder))
    return _rows(timings, size)


def _trained_state(setting: CheckpointSetting, device: torch.device) -> RunState:
    """A network, a moving average if asked for, and our default optimizer after its first step."""
    accelerator = Accelerator(cpu=device.type == "cpu")
    network = build_anynet(**setting.model).to(device)
    average = WeightAverage(network, 0.9999) if setting.ema else None
    prepared = accelerator.prepare_optimizer(build_optimizer(network, OptimConfig(lr=0.1), fused=False))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    prepared.step()
    prepared.zero_grad()
    return RunState(
        accelerator=accelerator,
        network=network,
        average=average,
        scores=RunningClassificationScores(device),
        progress=Progress(),
        context=RunContext(
            world_size=1, device_batch=1, precision="fp32", memory_format="contiguous", total_steps=1
        ),
        config=Config(checkpoint=CheckpointConfig(keep_last=1)),
    )


@contextmanager
def _savers(state: RunState, folder: RunFolder) -> Iterator[dict[str, Saver]]:
    """A saver for each way, of the same state, to the same folder."""
    savers = {}
    for way, background in WAYS.items():
        config = replace(state.config, checkpoint=replace(state.config.checkpoint, in_background=background))
        log = RunLog(folder, config, Progress(), writes=False)
        checkpoints = Checkpoints(folder.checkpoints, config.checkpoint)
        savers[way] = Saver(replace(state, config=config), folder, checkpoints, log)
    yield savers
    for saver in savers.values():
        saver.close()


@torch.no_grad()
def _save(saver: Saver, timing: _Timing, device: torch.device) -> None:
    for module in saver.state.networks.values():
        _change(module)
    saver.state.progress.step += 1
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started, cpu, own = time.perf_counter(), time.process_time(), time.thread_time()
    saver.save()
    timing.block.append(time.perf_counter() - started)
    timing.block_cpu.append(time.thread_time() - own)
    saver.finish()
    timing.total.append(time.perf_counter() - started)
    timing.total_cpu.append(time.process_time() - cpu)


def _change(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.mul_(0.999)


def _size(folder: Path) -> int:
    """Bytes of a checkpoint."""
    newest = max(folder.glob("checkpoints/step_*"))
    return sum(file.stat().st_size for file in newest.iterdir())


def _rows(timings: dict[str, _Timing], size: int) -> list[dict[str, Any]]:
    rows = []
    first = next(iter(timings.values()))
    for way, timing in timings.items():
        rows.append(
            {
                "way": way,
                "block_ms": 1e3 * median(timing.block),
                "block_ratio": median(timing.block) / median(first.block),
                "block_cpu_ms": 1e3 * median(timing.block_cpu),
                "block_cpu_ratio": median(timing.block_cpu) / median(first.block_cpu),
                "total_ms": 1e3 * median(timing.total),
                "total_cpu_ms": 1e3 * median(timing.total_cpu),
                "megabytes": size / 1e6,
                "seconds": vars(timing),
            }
        )
    return rows
