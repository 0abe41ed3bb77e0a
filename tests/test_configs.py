"""Every shipped config loads, names a network that can be built, and has the header that recipes have."""

from pathlib import Path

import pytest
import torch

from anynet_dist.config import dump_config, load_config
from anynet_dist.data.batch_plan import plan_batches
from anynet_dist.models.anynet import build_anynet
from anynet_dist.models.complexity import network_complexity
from anynet_dist.models.vocabulary import network_spec
from anynet_dist.training.build import check_network, model_arguments

ROOT = Path(__file__).resolve().parents[1]
SPACES = ROOT / "configs" / "sweep"  # tests/sweep/test_space.py
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent != SPACES)
RECIPES = [path for path in CONFIGS if path.name != "base.yaml"]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT / "configs"))


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_config_loads(path: Path, tmp_path: Path) -> None:
    """And the copy that a run saves of it reads back the same."""
    config = load_config(path).config
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_config(config))
    assert load_config(copy).config == config


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_builds_its_network_and_shares_its_batch(path: Path) -> None:
    config = load_config(path).config
    check_network(config)
    arguments = {"num_classes": 10, **model_arguments(config)}
    with torch.device("meta"):
        network = build_anynet(**arguments)
    counted = network_complexity(network_spec(**arguments), config.data.train_res or 224)
    assert sum(parameter.numel() for parameter in network.parameters()) == counted.params
    assert counted.flops, "the images are large enough for the network"
    for world_size in (1, 2, 4, 8):
        plan = plan_batches(config.train.global_batch, world_size)
        assert plan.device_batch * plan.accumulation * world_size == config.train.global_batch


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_says_what_to_expect_and_how_to_run_it(path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("Expected:", "Hardware:", "Command:"):
        assert any(word in line for line in header), word


def test_the_listings_network_is_the_one_of_the_document() -> None:
    config = load_config(ROOT / "configs" / "cifar10" / "blog_bottleneck.yaml").config
    network = build_anynet(**{**model_arguments(config), "num_classes": 10})
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_310_954
    assert (config.schedule.milestones, config.schedule.gamma) == ([100, 150], 0.1)
