"""The recipes in configs/: what they cite is what was published, and each would run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.models import get_model_weights

from anynet_dist.config import load_config
from anynet_dist.data.beton.build import build_beton
from anynet_dist.data.samples import FolderSamples
from anynet_dist.models import preset_names, published_top1
from anynet_dist.training.dry_run import dry_run
from tests.conftest import ROOT

IMAGENET = ROOT / "configs" / "imagenet"
RECIPES = sorted(path for path in IMAGENET.rglob("*.yaml") if path.name != "base.yaml")
ALL = [*RECIPES, *sorted((ROOT / "configs" / "cifar10").glob("*.yaml"))]
PYCLS = [path for path in RECIPES if path.parent == IMAGENET and not path.name.startswith("ffcv_")]
V2 = sorted((IMAGENET / "v2").glob("[!b]*.yaml"))
STRIKES_BACK = sorted((IMAGENET / "rsb").glob("*.yaml"))

TIMM = {
    "a1": {
        "resnet18": 71.504,
        "resnet34": 76.420,
        "resnet50": 80.382,
        "resnet101": 81.494,
        "resnet152": 81.998,
        "resnext50_32x4d": 80.526,
    },
    "a2": {
        "resnet18": 70.634,
        "resnet34": 75.520,
        "resnet50": 79.828,
        "resnet101": 81.344,
        "resnet152": 81.764,
        "resnext50_32x4d": 80.444,
    },
    "a3": {
        "resnet18": 68.250,
        "resnet34": 72.996,
        "resnet50": 78.052,
        "resnet101": 79.836,
        "resnet152": 80.548,
        "resnext50_32x4d": 79.258,
    },
    "ra_regnety": {
        "regnety_3_2gf": 81.948,
        "regnety_4gf": 82.308,
        "regnety_6_4gf": 83.006,
        "regnety_8gf": 83.166,
    },
    "ra_resnext50": {"resnext50_32x4d": 79.800},
}
"""Top-1 at 224 px in results/results-imagenet.csv of timm's repository, which its package leaves out."""
FFCV = {
    ("rn18", 16): 66.9,
    ("rn18", 32): 70.0,
    ("rn18", 40): 70.6,
    ("rn18", 88): 72.4,
    ("rn50", 16): 73.8,
    ("rn50", 32): 76.6,
    ("rn50", 40): 77.2,
    ("rn50", 88): 78.4,
}
"""Top-1 in the table of FFCV's ImageNet repository (README.md), by network and epochs."""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT / "configs"))


def header(path: Path) -> str:
    return "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))


def expected(path: Path) -> float:
    """The figure in percent that a recipe names first."""
    found = re.search(r"# Expected: ([\d.]+) % top-1", header(path))
    assert found, path
    return float(found[1])


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_header_and_command(path: Path) -> None:
    lines = header(path)
    for word in ("Expected:", "Source:", "Time:", "Hardware:", "Command:"):
        assert f"# {word}" in lines, word
    (command,) = re.findall(r"# Command: +(.*)", lines)
    assert command.endswith(f" configs/{name(path)}")
    processes = re.search(r"--num_processes (\d+)", command)
    (devices,) = re.findall(r"# Hardware: (\d+) GPU", lines)
    assert devices == (processes[1] if processes else "1")


@pytest.mark.parametrize("path", PYCLS, ids=name)
def test_pycls_figures(path: Path) -> None:
    config = load_config(path).config
    assert config.model.preset == path.stem
    published = published_top1(path.stem)
    assert published is not None
    assert published.source == "pycls"
    assert abs(expected(path) - 100 * published.top1) <= 0.05
    error = re.search(r"([\d.]+) % error", header(path))
    assert error
    assert abs(float(error[1]) - 100 * (1 - published.top1)) <= 0.005 + 1e-9
    # pycls' rule: 0.1 for each 128 images
    assert config.optim.lr == pytest.approx(0.1 * config.train.global_batch / 128)


@pytest.mark.parametrize("path", V2, ids=name)
def test_figures_of_torchvisions_second_weights(path: Path) -> None:
    theirs = re.search(r"torchvision's (\w+), IMAGENET1K_V2: ([\d.]+)", header(path))
    assert theirs
    weights = get_model_weights(theirs[1])["IMAGENET1K_V2"]
    figure = weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert float(theirs[2]) == figure
    assert abs(expected(path) - figure) <= 0.05
    data = load_config(path).config.data
    transform = weights.transforms()
    assert transform.crop_size == [data.eval_res]
    assert data.eval_crop_ratio == pytest.approx(transform.crop_size[0] / transform.resize_size[0], abs=1e-4)
    # The recipe's variants are sections of torchvision's issue; that of a comment repeats augmentation.
    variant = weights.meta["recipe"].partition("#")[2]
    small, repeated = data.train_res == 176, data.augment.repeats == 4
    named = {"new-recipe": (False, False), "new-recipe-with-fixres": (True, False)}
    assert (small, repeated) == named.get(variant, (True, True))


@pytest.mark.parametrize("path", [*STRIKES_BACK, *sorted((IMAGENET / "timm").glob("*.yaml"))], ids=name)
def test_figures_of_timms_table(path: Path) -> None:
    figures = dict(TIMM[path.stem])
    config = load_config(path).config
    pairs = re.findall(r"(\w+) ([\d.]+) %", header(path))
    cited = {preset: float(top1) for preset, top1 in pairs if preset in preset_names()}
    if "not measured" not in header(path).splitlines()[1]:
        assert config.model.preset is not None
        cited[config.model.preset] = expected(path)
    assert cited.keys() == figures.keys()
    for preset, top1 in cited.items():
        assert abs(top1 - figures[preset]) <= 0.05, preset


@pytest.mark.parametrize("path", STRIKES_BACK, ids=name)
def test_sizes_are_those_of_timms_weights(path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.get_pretrained_cfg(f"resnet50.{path.stem}_in1k")
    data = load_config(path).config.data
    assert (data.train_res, data.eval_crop_ratio) == (theirs.input_size[1], theirs.crop_pct)
    assert (data.mean, data.std) == (theirs.mean, theirs.std)


@pytest.mark.parametrize(("network", "epochs"), FFCV)
def test_ffcvs_figures(network: str, epochs: int) -> None:
    path = IMAGENET / (f"ffcv_{network}.yaml" if epochs == 88 else f"ffcv_{network}_{epochs}.yaml")
    assert expected(path) == FFCV[network, epochs]
    config = load_config(path).config
    first, last = config.data.res_ramp
    assert config.train.epochs == epochs
    assert epochs / 2 < first < last < epochs


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many images as the largest global batch has, 32x32."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "class0").mkdir()
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(folder / "class0" / "0.png")
    for number in range(1, 4096):
        (folder / "class0" / f"{number}.png").hardlink_to(folder / "class0" / "0.png")
    build_beton(FolderSamples(folder, ["class0"]), folder / "all.beton", classes=("class0",), workers=1)
    return folder / "all.beton"


@pytest.mark.parametrize("path", ALL, ids=name)
def test_recipe_would_run(path: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As `anynet train FILE --dry-run` finds out, with one block a stage: test_configs.py has them all."""
    options = ["--run.dir", str(tmp_path / "run"), "--run.cpu", "true"]
    data = load_config(path).config.data
    for split in ("train", "val", "test"):
        options += [f"--data.{split}", str(images)] if getattr(data, split) else []
    config = load_config(path, options).config
    if config.model.regnet.depth is None:
        config = replace(config, model=replace(config.model, num_blocks_per_stage=1))
    planned = dry_run(config)
    assert planned.plan.batches.global_batch == config.train.global_batch
    assert planned.plan.total_steps == config.train.epochs * (
        planned.plan.images // config.train.global_batch
    )
    rates = [planned.plan.learning_rate(step) for step in range(planned.plan.total_steps)]
    assert max(rates) <= planned.plan.peak_lr
    assert rates[-1] < rates[len(rates) // 3]
    assert "no effect" not in caplog.text


def test_the_page_of_recipes_has_all_of_them() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text()
    for path in ALL:
        (row,) = (line for line in page.splitlines() if line.startswith("|") and f"`{name(path)}`" in line)
        figure = re.search(r"# Expected: ([\d.]+) %", header(path))
        assert (f"{figure[1]} %" if figure else "not measured") in row, path
