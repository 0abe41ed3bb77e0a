"""What a run ran on: versions, machine and device, for environment.json."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from anynet_dist.system.install import own_version
from anynet_dist.system.redaction import redact_values

PACKAGES = ("torch", "torchvision", "accelerate", "numpy", "ffcv", "numba", "deepspeed", "wandb")


def package_versions() -> dict[str, str]:
    """Versions of the packages that affect a run's result, those that are installed."""
    found = {"anynet_dist": own_version(), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Commit of the checkout this package is imported from, with `-dirty` when files were changed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or None


def cpu_model() -> str:
    """What the maker calls this machine's processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        models = []
    return models[0] if models else platform.processor() or platform.machine()


def environment_report(world_size: int, device: str) -> dict[str, Any]:
    """What is needed to find out why two runs differ.

    Holds no secrets: no environment variables, and the command line without credentials of URLs.
    """
    import torch

    report: dict[str, Any] = {
        "command": redact_values(sys.argv),
        "versions": package_versions(),
        "commit": git_commit(),
        "platform": platform.platform(),
        "cpu": {"model": cpu_model(), "cores": psutil.cpu_count()},
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "world_size": world_size,
        "device": device,
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        report["gpu"] = {
            "name": properties.name,
            "count": torch.cuda.device_count(),
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return report
