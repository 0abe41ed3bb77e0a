"""Spaces: their files, their sizes, and what is drawn from them."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare

from anynet_dist.models.registry import get_block, parameter_names
from anynet_dist.models.regnet import regnet_stages
from anynet_dist.models.vocabulary import complexity
from anynet_dist.sweep import distributions
from anynet_dist.sweep.sampling import CHUNK, draw_chunk, sample
from anynet_dist.sweep.space import Bound, Space, with_window
from anynet_dist.sweep.space_file import read_space
from anynet_dist.system.errors import UserError

SPACES = sorted((Path(__file__).parents[2] / "configs" / "sweep").glob("*.yaml"))
EVERYTHING = {"flops": Bound(), "params": Bound(), "acts": Bound()}


def space(name: str) -> Space:
    return read_space(next(path for path in SPACES if path.stem == name))


@pytest.mark.parametrize(
    ("name", "degrees", "size"),
    [
        ("anynetx_a", 16, 1846757322198614016),
        ("anynetx_b", 13, 68398419340689408),
        ("anynetx_c", 10, 316659348799488),
        ("anynetx_d", 10, 13821510942720),  # C with a multiset of 4 of 128 widths in place of 128 ** 4
        ("anynetx_e", 10, 817446539520),  # and of 4 of 16 depths
        ("mixed_blocks_cifar", 15, (8 * (3 * 5 + 4)) ** 3 * 5984),
        ("listing_cifar", 11, (3 * 6 + 2) * 4**4 * 35),
    ],
)
def test_degrees_of_freedom_and_sizes(name: str, degrees: int, size: int) -> None:
    assert (space(name).degrees_of_freedom, space(name).size) == (degrees, size)


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_shipped_space_has_networks_in_its_window(path: Path) -> None:
    shipped = read_space(path)
    drawn = sample(shipped, 5, seed=1)
    for found in drawn.samples:
        counted = complexity(shipped.resolution, **found.model, num_classes=shipped.num_classes)
        assert counted == found.complexity
        assert shipped.refusal(counted) is None


@pytest.mark.parametrize(
    ("distribution", "values"),
    [
        (distributions.uniform(1, 16), range(1, 17)),
        (distributions.uniform(0.1, 0.5, 0.1), (0.1, 0.2, 0.3, 0.4, 0.5)),
        (distributions.power_of_two(1, 33), (1, 2, 4, 8, 16, 32)),
        (distributions.choice(["basic", "vgg"]), ("basic", "vgg")),
        (distributions.log_uniform(8, 64, 8), (8, 16, 24, 32, 40, 48, 56, 64)),
        (distributions.power_of_two_or_log(1, 32, 8), (1, 2, 4, 8, 16, 24, 32)),
    ],
)
def test_values_come_as_often_as_they_should(distribution: distributions.Grid, values: object) -> None:
    assert distribution.values == tuple(values)  # type: ignore[arg-type]
    drawn = distribution.draw(np.random.default_rng(7), (20_000, 1))[:, 0].tolist()
    counts = [drawn.count(value) for value in distribution.values]
    expected = 20_000 * np.array(distribution.probabilities)
    assert chisquare(counts, expected).pvalue > 0.01


def test_a_uniform_logarithm_is_one() -> None:
    """Of whole numbers each has what is rounded to it; of real numbers the logarithm itself is uniform."""
    grid = distributions.log_uniform(1, 4)
    assert isinstance(grid, distributions.Grid)
    assert grid.probabilities == pytest.approx(np.diff(np.log([1, 1.5, 2.5, 3.5, 4])) / np.log(4))
    drawn = distributions.log_uniform(1e-4, 1e-1).draw(np.random.default_rng(3), (10_000, 1))
    counts, _ = np.histogram(np.log10(drawn), bins=10, range=(-4, -1))
    assert chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("name", ["anynetx_b", "anynetx_c", "anynetx_d", "anynetx_e"])
def test_every_draw_keeps_what_its_space_promises(name: str) -> None:
    chunk = draw_chunk(with_window(space(name), EVERYTHING), 0, 0)
    assert len(chunk.samples) > 0.9 * CHUNK
    for found in chunk.samples:
        draw, widths = found.draw, found.model["num_channels"][1:]
        assert len(draw["bottleneck_ratio"]) == 1
        assert len(draw["group_width"]) == (4 if name == "anynetx_b" else 1)
        if name in ("anynetx_d", "anynetx_e"):
            assert list(draw["width"]) == sorted(draw["width"])
            assert widths == sorted(widths), "fitting the groups keeps the order"
        if name == "anynetx_e":
            assert list(draw["depth"]) == sorted(draw["depth"])


def test_ordered_draws_are_those_that_are_in_order_by_chance() -> None:
    """Each ordered tuple alike: sorting would make those of equal values rarer than they are."""
    path_free = Space(
        name="pairs",
        stages=2,
        parameters=space("anynetx_e").parameters[:1] + space("anynetx_a").parameters[1:],
    )
    depths = [draw.draw["depth"] for number in range(4) for draw in draw_chunk(path_free, 5, number).samples]
    one, two, *_ = path_free.parameters
    assert one.size(2) == 16 * 17 // 2
    counts: dict[tuple[object, ...], int] = {}
    for pair in depths:
        counts[pair] = counts.get(pair, 0) + 1
    equal = sum(number for pair, number in counts.items() if pair[0] == pair[1])
    assert equal / len(depths) == pytest.approx(16 / 136, abs=0.02), "sorted pairs would give 16 / 256"
    assert two.across == "each"


@pytest.mark.parametrize("name", ["regnetx", "regnetx_cifar", "regnety"])
def test_regnets_skip_no_level(name: str) -> None:
    regnets = space(name)
    for found in sample(regnets, 20, seed=0).samples:
        parameters = found.model["regnet"]
        stages = regnet_stages(**{key: parameters[key] for key in ("w0", "wa", "wm", "depth")})
        assert stages.num_levels == len(stages.widths) == regnets.stages


def test_what_belongs_to_one_block_type_is_drawn_for_it_alone() -> None:
    for found in sample(space("mixed_blocks_cifar"), 50, seed=0).samples:
        groups = found.model.get("group_width", [None] * 3)
        for block, group in zip(found.model["block_type"], groups, strict=True):
            assert (group is not None) == ("group_width" in parameter_names(get_block(block)))


def test_the_same_seed_gives_the_same_networks_whatever_the_workers() -> None:
    cifar = space("anynetx_e_cifar")
    one, again = sample(cifar, 40, seed=3), sample(cifar, 40, seed=3, workers=2)
    assert one.samples == again.samples
    assert one.draws == again.draws
    assert sample(cifar, 40, seed=4).samples != one.samples
    assert len({str(found.model) for found in one.samples}) == 40


@pytest.mark.slow
def test_an_empty_window_says_what_removed_how_many() -> None:
    impossible = with_window(space("regnetx_cifar"), {"flops": Bound(least=1, most=2)})
    with pytest.raises(UserError, match=r"(?s)no network in 101,000 draws .*\n +.* draws: flops above 2"):
        sample(impossible, 1, seed=0)


@pytest.mark.slow
def test_a_small_space_has_no_more_networks_than_it_has(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text("stages: 1\nparameters:\n  depth: {choice: [1, 2]}\n  width: {choice: [8]}\n")
    with pytest.raises(UserError, match="only 2 different networks of 3 found"):
        sample(read_space(file), 3, seed=0)


def test_a_bound_may_grow_with_flops() -> None:
    bounded = with_window(
        space("anynetx_a_cifar"),
        {"flops": Bound(), "params": Bound(most=0, most_per_flop=0.005)},
    )
    for found in sample(bounded, 10, seed=0).samples:
        assert found.complexity.params <= 0.005 * (found.complexity.flops or 0)


def test_problems_are_all_named_with_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(
        "stages: four\n"
        "modell: {stem: conv3x3_s1}\n"
        "model: {blocktype: basic, stem: conv3x3_s1}\n"
        "parameters:\n"
        "  depht: {uniform: [1, 4]}\n"
        "  width: {log_uniform: [64, 8]}\n"
        "  group_width: {choice: [1, 2], multiple_of: 2}\n"
        "  bottleneck_ratio: {choice: [1], stages: same}\n"
        "  optim.lr: {uniform: [0.1, 0.2], log_uniform: [0.1, 0.2]}\n"
        "window:\n"
        "  flop: [1, 2]\n"
        "  params: {mostly: 3}\n"
    )
    with pytest.raises(UserError) as error:
        read_space(file)
    expected = [
        "1: stages: must be an integer of at least 1 (got 'four')",
        "2: modell.stem: unknown key",
        "3: model.blocktype: unknown option; did you mean 'block_type'?",
        "5: parameters.depht: unknown parameter; did you mean 'depth'?",
        "6: parameters.width.log_uniform: must be two numbers, the lower one first (got [64, 8])",
        "7: parameters.group_width.multiple_of: does not go with choice",
        "8: parameters.bottleneck_ratio.stages: must be each, tied, ordered (got 'same')",
        "9: parameters.optim.lr: has uniform and log_uniform: give one of",
        "11: window.flop: unknown measure; did you mean 'flops'?",
        "12: window.params.mostly: unknown key; did you mean 'most'?",
    ]
    lines = str(error.value).splitlines()
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(f"{file}:{start}"), line
