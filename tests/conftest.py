import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from anynet_dist.system.threads import limit_spinning

limit_spinning()  # before torch is imported, as the command line does

import torch  # noqa: E402
from torch import nn  # noqa: E402

from anynet_dist.data.beton.build import build_beton  # noqa: E402
from anynet_dist.data.samples import FolderSamples  # noqa: E402
from anynet_dist.inference.trained import TrainedNetwork, open_trained  # noqa: E402
from anynet_dist.models.anynet import build_anynet  # noqa: E402
from anynet_dist.runs.network_file import NetworkDescription, save_network  # noqa: E402
from anynet_dist.system.json_lines import want_json  # noqa: E402
from anynet_dist.system.registry import KINDS, is_own  # noqa: E402
from tests.warm_start import WARM  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("class0", "class1", "class2")
PATIENCE = 240
"""Seconds after which a process counts as one that hangs, on a busy machine too; a test may take more."""

# A stem whose gradients are not a number in the training steps that the environment names.
BAD_STEM = """
import os
from anynet_dist.models.registry import register_stem
from anynet_dist.models.stems import ConvStem

@register_stem("stem_with_bad_steps")
class BadStem(ConvStem):
    pooling = False
    steps = 0

    def forward(self, images):
        features = super().forward(images)
        if self.training and features.requires_grad:
            self.steps += 1
            if str(self.steps) in os.environ["BAD_STEPS"].split():
                features.register_hook(lambda gradient: gradient * float("nan"))
        return features
"""

Launch = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=4, help="how often the soak test kills its run")
    parser.addoption("--loader", default="device", help="the loader of the soak test")
    parser.addoption("--every-operation", action="store_true", help="tests/faults: not only a sample of them")


@pytest.hookimpl(tryfirst=True)  # before pytest chooses tests by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of tests/gpu and tests/slurm, and those that load data with FFCV as slow: importing and
    compiling it takes longer than they do. Those that are given more time than others come first."""
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        if folder in ("gpu", "slurm"):
            item.add_marker(folder)
        parameters = (
            item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        )
        loads_with_ffcv = folder in ("data", "training") and "ffcv" in map(str, parameters.values())
        if folder in ("gpu", "slurm") or loads_with_ffcv:
            item.add_marker("slow")
    # What takes long begins early, so that no process is left alone with it at the end.
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


@pytest.fixture
def kills(pytestconfig: pytest.Config) -> int:
    """How often the soak test kills its run."""
    return int(pytestconfig.getoption("kills"))


@pytest.fixture
def every_operation(pytestconfig: pytest.Config) -> bool:
    """Whether the tests of faults try every operation of a run on its files."""
    return bool(pytestconfig.getoption("--every-operation"))


@pytest.fixture
def soak_loader(pytestconfig: pytest.Config) -> str:
    """The loader of the soak test."""
    return str(pytestconfig.getoption("loader"))


@pytest.fixture
def registries() -> Iterator[None]:
    """What a test registers is gone after it."""
    before = {kind: dict(registry) for kind, registry in KINDS.items()}
    yield
    for kind, registry in KINDS.items():
        content = before.get(kind, {name: part for name, part in registry.items() if is_own(part)})
        registry.clear()
        registry.update(content)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images; tests that want it are skipped where there is none."""
    folder = os.environ.get("ANYNET_REAL_DATA")
    if not folder:
        pytest.skip("ANYNET_REAL_DATA is not set: no real images to test on")
    return Path(folder)


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of three easy classes, 16x16: 96 images to train on and 37, a prime, to test on."""
    folder = tmp_path_factory.mktemp("blobs")
    generator = np.random.default_rng(0)
    for split, count in (("train", 96), ("val", 37)):
        for number in range(count):
            label = number % 3
            pixels = generator.integers(0, 100, (16, 16, 3), dtype=np.uint8)
            pixels[:, :, label] += np.uint8(100)
            target = folder / split / f"class{label}" / f"{number:03d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(target)
    return folder


@pytest.fixture(scope="session")
def blob_betons(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.beton and val.beton of the blobs."""
    folder = tmp_path_factory.mktemp("blob_betons")
    for split in ("train", "val"):
        samples = FolderSamples(blobs / split, list(CLASSES))
        build_beton(samples, folder / f"{split}.beton", classes=CLASSES, workers=1)
    return folder


@pytest.fixture
def blobs_config(blobs: Path, tmp_path: Path) -> Path:
    """A config that trains a tiny network on the blobs, in fp32, into tmp_path/run."""
    config = {
        "run": {"name": "blobs", "dir": str(tmp_path / "run")},
        "data": {
            "train": str(blobs / "train"),
            "test": str(blobs / "val"),
            "val_fraction": 0.25,
            "loader": "device",
            "mean": [0.3, 0.3, 0.3],
            "std": [0.2, 0.2, 0.2],
            "augment": {"flip": True, "translate": 2},
        },
        "model": {
            "num_blocks_per_stage": [1, 1],
            "num_channels": [8, 8, 16],
            "strides": [1, 2],
            "stem": "conv3x3_s2",
        },
        "train": {
            "epochs": 2,
            "global_batch": 24,
            "precision": "fp32",
            "memory_format": "contiguous",
            "log_every": 1,
        },
        "optim": {"lr": 0.05},
        "eval": {"batch_size": 10},
        "tracking": {"report": False},  # tests/report looks at it
    }
    path = tmp_path / "blobs.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="session")
def bad_stem(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options for a stem whose gradients are not a number in the steps that BAD_STEPS lists."""
    plugin = tmp_path_factory.mktemp("plugin") / "bad_stem.py"
    plugin.write_text(BAD_STEM)
    return ("--plugins", str(plugin), "--model.stem", "stem_with_bad_steps")


def launch_command(*args: object, processes: int) -> list[str]:
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    return [*command, "anynet_dist", *map(str, args)]


def refuse_unmarked_ranks(test: pytest.FixtureRequest, ranks: int) -> None:
    """`pytest -m multiprocess` runs all tests of several ranks, so those without the marker fail."""
    if ranks > 1 and not test.node.get_closest_marker("multiprocess"):
        pytest.fail(f"{test.node.nodeid} runs several ranks: mark it @pytest.mark.multiprocess")


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Start what `launch` runs, with stdout and stderr in one, and return it while it runs; kill it at the
    end."""
    started: list[subprocess.Popen[str]] = []

    def begin(*args: object, processes: int = 1, **environment: str) -> subprocess.Popen[str]:
        running = sum(process.poll() is None for process in started)
        refuse_unmarked_ranks(request, running + processes)
        started.append(
            subprocess.Popen(
                launch_command(*args, processes=processes),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", **environment},
            )
        )
        return started[-1]

    yield begin
    for process in started:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            child.kill()
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@pytest.fixture
def launch(request: pytest.FixtureRequest) -> Launch:
    """Run `anynet ARGS` in one process, or in several ranks, and return it with its output."""

    def run(*args: object, processes: int = 1, check: bool = True) -> subprocess.CompletedProcess[str]:
        refuse_unmarked_ranks(request, processes)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        result = WARM.run(args, timeout=PATIENCE, environment=environment, ranks=processes)
        if check and result.returncode:
            pytest.fail(f"anynet {args} ended with {result.returncode}:\n{result.stdout}\n{result.stderr}")
        return result

    return run


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Puts the package's logger back as it was, for a test that sets the console up."""
    logger = logging.getLogger("anynet_dist")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before
    logging.captureWarnings(False)
    want_json(False)


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """Lets a test start an Accelerator with settings of its own: accelerate keeps them for the process."""
    from accelerate.state import AcceleratorState, GradientState

    def reset() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    reset()
    yield
    reset()


def randomise_norms(network: nn.Module) -> None:
    """Batch norm as after training: nothing about it is 0 or 1."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
            assert layer.running_mean is not None
            assert layer.running_var is not None
            nn.init.normal_(layer.running_mean, std=0.2)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)


@pytest.fixture
def network_file(tmp_path: Path) -> Path:
    """A weight file of a small network with squeeze-excitation, groups and a max-pooling, on 24x24 images."""
    torch.manual_seed(0)
    description = NetworkDescription(
        model={
            "num_blocks_per_stage": [1, 2],
            "num_channels": [8, 8, 16],
            "group_width": 4,
            "se_ratio": 0.25,
            "stem": "conv3x3_maxpool",
            "num_classes": 3,
        },
        classes=("cat", "dog", "rat"),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.3),
        resolution=24,
        crop_ratio=0.875,
    )
    network = build_anynet(**description.model)
    randomise_norms(network)
    nn.init.normal_(network.head.fc.weight, std=1.0)  # type: ignore[union-attr, arg-type]
    facts = {"epoch": 7, "weights": "ema", "test/ema_top1": 0.5, "test/ema_top5": 1.0, "test/ema_loss": 1.25}
    save_network(tmp_path / "model.safetensors", network, description, **facts)
    return tmp_path / "model.safetensors"


@pytest.fixture
def trained(network_file: Path) -> TrainedNetwork:
    """The network of that file."""
    return open_trained(network_file)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder, china/ and flower/, of 12 JPEGs each: pieces of two photographs, all of different
    sizes."""
    from sklearn.datasets import load_sample_image  # here, as it takes seconds

    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for name in ("china", "flower"):
        photo = load_sample_image(f"{name}.jpg")
        (root / name).mkdir()
        for number in range(12):
            height, width = generator.integers(120, 400, 2)
            top, left = generator.integers(0, 427 - height), generator.integers(0, 640 - width)
            piece = Image.fromarray(photo[top : top + height, left : left + width])
            piece.save(root / name / f"{number:02}.jpg", quality=95)
    return root
