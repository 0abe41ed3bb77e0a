"""How long a fresh process takes to its first batch, and what of it goes where.

Run with a .beton file, a loader's name and the arguments of `_first_batch` as JSON, this module prints the
seconds of each step as JSON; `measure_startup` runs it with numba's compiled code on disk and without.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from rich.table import Table

    from anynet_dist.bench.subjects import Setting
    from anynet_dist.data.loaders.names import LoaderName

STEPS = ("import torch", "import FFCV", "import the rest", "make loader", "first batch")
STARTUP_BATCH = 64


def measure_startup(file: Path, loaders: Sequence[str], setting: Setting, workers: int) -> Table:
    """The seconds of each step for each loader, the median of fresh processes in turn."""
    from rich.table import Table

    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="anynet-numba-") as cache:
        for _ in range(setting.repeats):
            for loader in loaders:
                how = {"small": setting.small, "resolution": setting.resolution, "workers": workers}
                command = [sys.executable, "-m", __name__, str(file), loader, json.dumps(how)]
                with tempfile.TemporaryDirectory(dir=cache) as empty:
                    for start in ("first", "later"):
                        found.setdefault((loader, start), []).append(_run(command, empty))
    table = Table(title=f"seconds to the first batch of {STARTUP_BATCH} in a fresh process")
    for column in ("loader", "start", *STEPS, "all"):
        table.add_column(column, justify="left" if column in ("loader", "start") else "right")
    for (loader, start), runs in found.items():
        steps = [statistics.median(run[step] for run in runs) for step in STEPS]
        total = statistics.median(sum(run.values()) for run in runs)
        table.add_row(loader, start, *(f"{seconds:.2f}" for seconds in (*steps, total)))
    table.caption = "first: numba has kept no compiled code; later: it has that of the start before"
    return table


def _run(command: Sequence[str], cache: str) -> dict[str, float]:
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    steps: dict[str, float] = json.loads(output.splitlines()[-1])
    return steps


def _first_batch(file: Path, name: str, small: bool, resolution: int, workers: int) -> dict[str, float]:
    """The steps of this process, which has imported nothing yet."""
    times = [time.perf_counter()]
    import torch

    times.append(time.perf_counter())
    if name != "torch":
        import_module("ffcv.loader" if name == "bare FFCV" else "anynet_dist.data.loaders.ffcv_kernel")
    times.append(time.perf_counter())
    from anynet_dist.bench.subjects import BARE, Setting, bare_loader, our_loader

    setting = Setting(
        root=file.parent, beton=file, small=small, resolution=resolution, batch_size=STARTUP_BATCH
    )
    times.append(time.perf_counter())
    loader = (
        bare_loader(file, setting, workers)
        if name == BARE
        else our_loader(file, cast("LoaderName", name), setting, workers)
    )
    times.append(time.perf_counter())
    images, _ = next(iter(loader))
    times.append(time.perf_counter())
    assert images.dtype == torch.float32
    getattr(loader, "close", lambda: None)()
    return dict(zip(STEPS, (after - before for before, after in pairwise(times)), strict=True))


if __name__ == "__main__":
    path, name, how = sys.argv[1:]
    print(json.dumps(_first_batch(Path(path), name, **json.loads(how))))  # noqa: T201
