"""Where a benchmark was measured, for the JSON beside its table."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from anynet_dist.system.environment import cpu_model, environment_report

LIBRARIES = ("timm", "lightning")


def bench_environment(device: torch.device) -> dict[str, Any]:
    """What a run notes of its environment, and what the speed depends on: threads, load, libraries."""
    report = environment_report(1, str(device))
    versions = dict(report["versions"])
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    load, _, _ = os.getloadavg()
    return report | {
        "command": ["anynet", *report["command"][1:]] if _is_anynet() else report["command"],
        "versions": versions,
        "threads": torch.get_num_threads(),
        "load": round(load, 2),
    }


def _is_anynet() -> bool:
    return Path(sys.argv[0]).name in ("anynet", "__main__.py")


def choose_device(cpu: bool, threads: int | None) -> torch.device:
    """The GPU where there is one, unless the CPU is asked for; sets the number of threads if given."""
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")


def device_name(device: torch.device) -> str:
    """The GPU, or the processor and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{cpu_model()}, {threads} thread{'s' if threads > 1 else ''}"
