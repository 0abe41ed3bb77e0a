"""Checks of one machine: packages, GPUs, FFCV, disk, shared memory, limits."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from anynet_dist.doctor.findings import Finding, ok, problem, warning
from anynet_dist.system.environment import package_versions

GIB = 2**30
DISK_FEW, DISK_TOO_FEW = 20 * GIB, GIB
SHM_FEW, SHM_TOO_FEW = GIB, 128 * 2**20
FILES_FEW, FILES_TOO_FEW = 4096, 512
GPU_BUSY = 0.2
JPEG_ERROR = 3


def check_versions() -> Iterator[Finding]:
    """Versions of Python and of the packages that matter to a run."""
    yield ok("versions", ", ".join(f"{name} {version}" for name, version in package_versions().items()))


def check_gpus(cpu: bool = False) -> Iterator[Finding]:
    """Whether torch sees the GPUs that the driver, or the job, has; that they compute and are free."""
    import torch

    driver = gpus_of_driver()
    count = 0 if cpu else torch.cuda.device_count()
    promised = promised_gpus()
    if cpu:
        yield ok("GPUs", "not looked for (--cpu)")
    elif count < max(len(driver), promised):
        where = f"the driver has {len(driver)}" if driver else f"the environment promises {promised}"
        yield problem(
            "GPUs",
            f"torch {torch.__version__} sees {count} GPUs, {where}",
            "a CUDA build of torch that the driver supports; look at nvidia-smi and CUDA_VISIBLE_DEVICES;"
            " --cpu where none is wanted",
        )
    elif count == 0:
        yield ok("GPUs", "none: training runs on the CPU")
    for number in range(count):
        yield _try_gpu(number, driver)


def gpus_of_driver() -> list[str]:
    """Name and driver version of each GPU that nvidia-smi lists and CUDA_VISIBLE_DEVICES does not hide."""
    if shutil.which("nvidia-smi") is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return []
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=60)
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return lines if visible is None else lines[: len(visible.split(","))]


def promised_gpus() -> int:
    """How many GPUs this process was given by its environment."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return len([name for name in visible.split(",") if name not in ("", "-1", "NoDevFiles")])


def _try_gpu(number: int, driver: list[str]) -> Finding:
    import torch

    name = f"{number}: {torch.cuda.get_device_name(number)}"
    ones = torch.ones(512, 512, device=f"cuda:{number}")
    if float((ones @ ones)[0, 0]) != 512:
        return problem("GPUs", f"{name} computes wrongly", "take it out of use and inform the administrator")
    free, total = torch.cuda.mem_get_info(number)
    versions = ".".join(map(str, torch.cuda.nccl.version()))
    version = driver[number].rpartition(", ")[2] if number < len(driver) else "unknown"
    facts = f"{name}, {total / GIB:.0f} GiB, driver {version}, CUDA {torch.version.cuda}, NCCL {versions}"
    if free < (1 - GPU_BUSY) * total:
        return warning(
            "GPUs", f"{facts}; {free / total:.0%} of its memory is free", "nvidia-smi shows whose it is"
        )
    return ok("GPUs", facts)


def check_ffcv() -> Iterator[Finding]:
    """Whether FFCV imports, compiles and decodes what we write."""
    from anynet_dist.data.loaders.factory import ffcv_installed

    if not ffcv_installed():
        yield warning(
            "FFCV",
            "not installed: the torch loader serves, more slowly",
            "anynet doctor --fix ffcv installs it",
        )
        return
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        error = _decoding_error()
    if error > JPEG_ERROR:
        text = f"what it decodes is {error:.0f} of 255 levels off"
        yield problem("FFCV", text, "reinstall it: rm -r .venv, make setup; until then --data.loader torch")
    else:
        yield ok("FFCV", "imports, compiles and decodes")


def _decoding_error() -> float:
    """Largest difference, in levels, between a grey image and what FFCV decodes of its .beton file."""
    import numpy as np

    from anynet_dist.data.beton.build import build_beton
    from anynet_dist.data.beton.writer import WriteOptions
    from anynet_dist.data.loaders.base import Placement
    from anynet_dist.data.loaders.factory import eval_loader
    from anynet_dist.data.samples import ArraySamples
    from anynet_dist.data.transforms.normalisation import Normalisation

    images = np.full((2, 32, 32, 3), 128, np.uint8)
    with tempfile.TemporaryDirectory(prefix="anynet-doctor-") as folder:
        file = Path(folder) / "grey.beton"
        options = WriteOptions(write_mode="jpg")
        build_beton(ArraySamples(images, np.arange(2)), file, classes=("a", "b"), options=options, workers=1)
        loader = eval_loader(
            file,
            batch_size=2,
            normalisation=Normalisation((0, 0, 0), (1, 1, 1)),
            placement=Placement(workers=1),
            loader="ffcv",
        )
        try:
            decoded = next(iter(loader))[0].clone()
        finally:
            loader.close()
    return float((255 * decoded - 128).abs().max())


def check_disk(folder: Path) -> Iterator[Finding]:
    """Whether run folders can be written, and the room there."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".anynet-doctor-"):
            pass
    except OSError as error:
        yield problem("disk", f"{existing} cannot be written: {error.strerror}", "choose another --run.dir")
        return
    free = shutil.disk_usage(existing).free
    text = f"{free / GIB:.0f} GiB free in {existing}"
    if free < DISK_FEW:
        level = problem if free < DISK_TOO_FEW else warning
        yield level("disk", text, "make room, lower checkpoint.keep_last, or choose another --run.dir")
    else:
        yield ok("disk", text)


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Iterator[Finding]:  # noqa: S108
    """The room in /dev/shm, through which loader workers pass images and NCCL communicates."""
    if not folder.is_dir():
        return
    free = shutil.disk_usage(folder).free
    text = f"{free / GIB:.1f} GiB free in {folder}"
    if free < SHM_FEW:
        level = problem if free < SHM_TOO_FEW else warning
        yield level("shm", text, "in a container --shm-size=8g (docker); else remove what lies there")
    else:
        yield ok("shm", text)


def check_limits() -> Iterator[Finding]:
    """How many files a process may open; loader workers and connections need some each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{soft} open files allowed (ulimit -n)"
    if soft < FILES_FEW and soft != resource.RLIM_INFINITY:
        most = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
        level = problem if soft < FILES_TOO_FEW else warning
        yield level("limits", text, f"ulimit -n {FILES_FEW} before the start (allowed are up to {most})")
    else:
        yield ok("limits", text)
