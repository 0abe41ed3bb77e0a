"""Statistics of populations: small cases by hand, and the definitions drawn out."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.stats import ks_2samp

from anynet_dist.models.regnet import regnet_stages
from anynet_dist.sweep.population import Member, Population, Result, Stage
from anynet_dist.sweep.statistics import (
    best_range,
    bootstrap_medians,
    compare,
    complexity_weights,
    edf,
    edf_band,
    fit_quantised_linear,
    ks_critical,
    ks_detectable,
    ks_power,
    numeric_columns,
    rank_correlation,
    rank_correlations,
    search_efficiency,
    seed_noise,
    trained_errors,
)
from anynet_dist.sweep.statistics.columns import FloatArray
from anynet_dist.system.errors import UserError


def errors_of_a_space(n: int, seed: int = 0) -> FloatArray:
    """Errors with a long upper tail, as populations have them."""
    return 7 + np.random.default_rng(seed).lognormal(0.5, 0.7, n)


def test_columns_follow_the_trained_networks() -> None:
    population = Population(
        name="three",
        kind="imported",
        members=(
            Member(id="a", parameters={"depth": 3, "block": "basic"}, complexity={"flops": 1e6}),
            Member(id="b", parameters={"depth": 9}, complexity={"flops": 9e6}),
            Member(id="c", parameters={"depth": 4, "width": 8}, complexity={"params": 5}),
        ),
        results={"c": Result(id="c", errors=(10, 12)), "a": Result(id="a", errors=(20,))},
    )
    assert trained_errors(population).tolist() == [20, 11]
    columns = numeric_columns(population)
    assert list(columns) == ["flops", "params", "depth", "width"]
    assert columns["depth"].tolist() == [3, 4]
    np.testing.assert_equal(columns["flops"], [1e6, np.nan])
    np.testing.assert_equal(columns["width"], [np.nan, 8])


def test_edf_counts_errors_of_at_most_e() -> None:
    distribution = edf([3, 1, 2, 2])
    assert distribution.errors.tolist() == [1, 2, 3]
    assert distribution.shares.tolist() == [0.25, 0.75, 1]
    assert [distribution.at(e) for e in (0.9, 1, 1.9, 2, 3, 9)] == [0, 0.25, 0.25, 0.75, 1, 1]
    assert (distribution.n, distribution.min, distribution.mean, distribution.median) == (4, 1, 2, 2)


def test_edf_with_equal_weights_is_that_without() -> None:
    for n in (1, 2, 30, 31):
        errors = errors_of_a_space(n)
        plain, weighted = edf(errors), edf(errors, np.full(n, 0.3))
        np.testing.assert_allclose(weighted.shares, plain.shares)
        assert plain.shares[-1] == weighted.shares[-1] == 1
        assert weighted.median == plain.median == pytest.approx(np.median(errors))
        assert weighted.mean == pytest.approx(errors.mean())


def test_weights_shift_the_edf() -> None:
    distribution = edf([1, 2, 3, 4], [0, 1, 1, 2])
    assert distribution.errors.tolist() == [2, 3, 4]
    assert distribution.shares.tolist() == [0.25, 0.5, 1]
    assert (distribution.n, distribution.min, distribution.mean, distribution.median) == (3, 2, 3.25, 3.5)


@pytest.mark.parametrize(
    ("errors", "weights", "message"),
    [
        ([], None, "at least one trained network"),
        ([1, np.nan], None, "finite number"),
        ([1, 2], [1], "2 errors need 2 weights, not 1"),
        ([1, 2], [0, 0], "above 0 for one network"),
        ([1, 2], [-1, 2], "at least 0"),
    ],
)
def test_edf_refuses(errors: list[float], weights: list[float] | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        edf(errors, weights)


def test_the_band_is_that_of_networks_drawn_with_replacement() -> None:
    errors = errors_of_a_space(40)
    low, high = edf_band(errors)
    at = np.sort(errors)
    draws = np.random.default_rng(1).choice(errors, (10_000, 40))
    shares = (draws[:, :, None] <= at).mean(axis=1)
    expected = np.percentile(shares, [2.5, 97.5], axis=0)
    np.testing.assert_allclose([low, high], expected, atol=1 / 40 + 1e-9)
    middle = 19
    assert low[middle] == pytest.approx(0.35, abs=0.026)
    assert high[middle] == pytest.approx(0.65, abs=0.026)
    wide, narrow = edf_band(errors, 0.99), edf_band(errors, 0.5)
    assert (wide[1] - wide[0]).sum() > (high - low).sum() > (narrow[1] - narrow[0]).sum()


def test_complexity_weights_by_hand() -> None:
    found = complexity_weights([[0, 1, 2, 3], [1.0, 1.1, 2.9, 10, np.nan]], bins=2)
    assert found.edges.tolist() == [1, 2, 3]
    assert found.shared == (True, True)
    assert found.weights[0].tolist() == [0, 0.5, 0.25, 0.25]
    assert found.weights[1].tolist() == [0.25, 0.25, 0.5, 0, 0]
    assert found.left_out == (1, 2)


def test_a_bin_that_not_all_populations_reach_counts_for_none() -> None:
    found = complexity_weights([[0, 1.5, 3], [0, 3]], bins=3)
    assert found.shared == (True, False, True)
    assert found.weights[0].tolist() == [0.5, 0, 0.5]
    assert found.left_out == (1, 0)


def test_weighted_populations_have_one_distribution_of_complexity() -> None:
    generator = np.random.default_rng(0)
    spaces = [generator.uniform(0, 10, 300), generator.triangular(2, 9, 12, 500), generator.normal(6, 2, 400)]
    found = complexity_weights(spaces, bins=8)
    for values, weights in zip(spaces, found.weights, strict=True):
        assert weights.sum() == pytest.approx(1)
        share, _ = np.histogram(values, found.edges, weights=weights)
        np.testing.assert_allclose(share, 1 / 8)
    # Error that follows complexity alone then has the same mean in all: the bias is gone.
    means = [edf(20 - v, w).mean for v, w in zip(spaces, found.weights, strict=True)]
    assert max(means) - min(means) < 0.2 < np.ptp([values.mean() for values in spaces])


@pytest.mark.parametrize(
    ("complexities", "message"),
    [
        ([[1, 2]], "two populations or more"),
        ([[1, 2], [3, 4]], "one ends at 2, another begins at 3"),
        ([[1, 2], [np.nan]], "no network of known complexity"),
        ([[0, 10], [3, 6]], "share none of the 2 bins"),
    ],
)
def test_complexity_weights_refuse(complexities: list[list[float]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        complexity_weights(complexities, bins=2)


def test_search_efficiency_is_that_of_all_combinations() -> None:
    errors = [5.0, 3.0, 8.0, 3.0, 9.5, 4.0, 7.0, 6.0]
    found = search_efficiency(errors)
    for k in range(1, len(errors) + 1):
        lowest = sorted(min(chosen) for chosen in combinations(errors, k))
        assert found.expected[k - 1] == pytest.approx(np.mean(lowest))
        for bound, share in ((found.low, 0.05), (found.high, 0.95)):
            assert bound[k - 1] == np.percentile(lowest, 100 * share, method="inverted_cdf")


def test_search_efficiency_stays_exact_for_many_networks() -> None:
    errors = errors_of_a_space(2000)
    found = search_efficiency(errors)
    assert found.expected[0] == pytest.approx(errors.mean())
    assert found.expected[-1] == found.low[-1] == found.high[-1] == errors.min()
    assert (np.diff(found.expected) < 0).all()
    draws = np.random.default_rng(0).random((3000, 2000)).argpartition(100, axis=1)[:, :100]
    assert found.expected[99] == pytest.approx(errors[draws].min(axis=1).mean(), abs=0.005)


def test_best_range_is_that_of_draws_with_replacement() -> None:
    generator = np.random.default_rng(3)
    values = generator.uniform(0, 10, 60)
    errors = 8 + (values - 6) ** 2 / 10 + generator.normal(0, 0.5, 60)
    found = best_range(values, errors)
    assert (found.n, found.drawn) == (60, 15)
    draws = generator.integers(60, size=(10_000, 15))
    best = values[draws[np.arange(10_000), errors[draws].argmin(axis=1)]]
    for bound, share in ((found.low, 0.025), (found.median, 0.5), (found.high, 0.975)):
        assert (best < bound).mean() < share + 0.015
        assert (best <= bound).mean() > share - 0.015
    assert found.low < found.median < found.high


def test_best_range_by_hand() -> None:
    # Two draws of eight: the best is first with 1 - (7/8)^2 = .234, then .203, .172, .141, ...
    errors = np.arange(8.0)
    assert best_range(range(10, 18), errors).median == 12
    # Eight draws: 1 - (5/8)^8 = .977 of them hold one of the first three.
    assert best_range(range(10, 18), errors, share=1).high == 12
    # Networks of equal error share the chance, so that their order in the file does not matter.
    tied = best_range([1, 2, 3, 4], [5, 5, 5, 5])
    assert (tied.low, tied.median, tied.high) == (1, 2, 4)
    unknown = best_range([np.nan, 3], [1, 9])
    assert (unknown.low, unknown.high, unknown.n, unknown.drawn) == (3, 3, 1, 1)


@pytest.mark.parametrize(
    ("values", "errors", "message"),
    [([1, 2], [1], "1 errors need 1 values, not 2"), ([np.nan], [1], "at least one trained network")],
)
def test_best_range_refuses(values: list[float], errors: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        best_range(values, errors)


@pytest.mark.parametrize("n", [1, 2, 9, 10])
def test_bootstrap_medians_are_those_of_resamples(n: int) -> None:
    errors = errors_of_a_space(n)
    found = bootstrap_medians(errors, 20_000, np.random.default_rng(0))
    resamples = np.random.default_rng(1).choice(errors, (20_000, n))
    assert ks_2samp(found, np.median(resamples, axis=1), method="asymp").statistic < 0.02


def test_critical_distance_by_hand() -> None:
    assert ks_critical(16, 16) == pytest.approx(0.4801, abs=1e-4)
    assert ks_critical(100, 100) == pytest.approx(1.3581 * np.sqrt(2) / 10, abs=1e-4)
    assert ks_critical(30, 60, alpha=0.01) == pytest.approx(1.6276 * np.sqrt(90 / 1800), abs=1e-4)


SIZES = (16, 32, 64, 100, 200)
MEASURED = {
    0.46: (0.71, 0.95, 1, 1, 1),
    0.28: (0.27, 0.58, 0.86, 0.96, 1),
    0.16: (0.10, 0.15, 0.36, 0.52, 0.82),
}
"""The share of comparisons that found a true distance between parts of NAS-Bench-Macro."""


@pytest.mark.parametrize("distance", MEASURED)
def test_power_is_near_what_was_measured_on_trained_networks(distance: float) -> None:
    power = [ks_power(distance, n, n) for n in SIZES]
    np.testing.assert_allclose(power, MEASURED[distance], atol=0.07)


def test_power_rises_with_distance_and_networks() -> None:
    for n, m in ((16, 16), (20, 50), (300, 1000)):
        powers = [ks_power(distance, n, m) for distance in (0, 0.1, 0.2, 0.4, 0.8, 1)]
        assert powers == sorted(powers)
        assert powers[0] <= 0.055  # of equal distributions, a test at level 0.05 finds no more
        assert powers[-1] == 1
    assert ks_power(0.2, 16, 16) < ks_power(0.2, 16, 64) < ks_power(0.2, 64, 64) < ks_power(0.2, 400, 400)
    assert ks_power(0.3, 20, 50) == pytest.approx(ks_power(0.3, 50, 20), abs=0.03)


def test_the_detectable_distance_is_found_in_80_percent() -> None:
    for n, m in ((8, 8), (16, 16), (25, 70)):
        detectable = ks_detectable(n, m)
        assert detectable is not None
        assert ks_power(detectable, n, m) >= 0.8 > ks_power(detectable - 0.01, n, m)
        assert detectable > ks_critical(n, m)
    assert ks_detectable(3, 3) is None
    assert ks_detectable(16, 16, power=0.5) < ks_detectable(16, 16)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ks_power(1.2, 5, 5), "between 0 and 1, not 1.2"),
        (lambda: ks_power(0.2, 0, 5), "at least one network a side, not 0 and 5"),
        (lambda: ks_critical(5, 5, alpha=0), "alpha must lie between 0 and 1"),
        (lambda: ks_detectable(5, 5, power=1), "power must lie between 0 and 1"),
    ],
)
def test_power_refuses(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


def test_two_samples_of_one_space_show_no_difference() -> None:
    found = compare(errors_of_a_space(16, seed=0), errors_of_a_space(16, seed=1))
    assert not found.shown
    assert found.ks < found.critical
    assert found.interval[0] < 0 < found.interval[1]
    assert "No difference is shown" in found.verdict
    assert "which is not to show that there is none: with 16 networks a side" in found.verdict
    assert f"distance of 0.28 is found in only {ks_power(0.28, 16, 16):.0%}"[:-1] in found.verdict
    assert f"takes one of {found.detectable80:.2f}" in found.verdict


def test_many_networks_bound_the_difference_that_may_be_there() -> None:
    found = compare(errors_of_a_space(150, seed=0), errors_of_a_space(300, seed=1))
    assert not found.shown
    assert "With 150 and 300 networks" in found.verdict
    assert f"{found.detectable80:.2f} or more is found in at least 80 %" in found.verdict
    assert "may well be there" in found.verdict


def test_too_few_networks_are_told_so() -> None:
    found = compare([1, 2, 3], [11, 12, 13])
    assert (found.ks, found.shown, found.detectable80) == (1, False, None)
    assert "3 networks a side are too few to show any" in found.verdict


def test_a_shown_difference_names_the_better_population() -> None:
    better, worse = errors_of_a_space(60, seed=0), errors_of_a_space(60, seed=1) + 2
    found = compare(worse, better, names=("wide", "deep"))
    assert found.shown
    assert found.median_difference == pytest.approx(np.median(worse) - np.median(better))
    assert 0 < found.interval[0] < found.median_difference < found.interval[1]
    assert f"median error of deep is {found.median_difference:.2f} points below that of wide" in found.verdict
    turned = compare(better, worse, names=("deep", "wide"))
    assert turned.median_difference == -found.median_difference
    assert "median error of deep is" in turned.verdict
    assert (turned.ks, turned.p) == (found.ks, found.p)


def test_distributions_may_differ_though_their_medians_do_not() -> None:
    generator = np.random.default_rng(0)
    found = compare(generator.normal(10, 0.2, 200), generator.normal(10, 3, 200))
    assert found.shown
    assert "differ (KS distance" in found.verdict
    assert "not clearly in their medians" in found.verdict


def test_comparison_is_the_same_for_the_same_seed() -> None:
    a, b = errors_of_a_space(30, seed=0), errors_of_a_space(30, seed=1)
    assert compare(a, b, seed=5) == compare(a, b, seed=5)
    assert compare(a, b, seed=5).interval != compare(a, b, seed=6).interval


def test_rank_correlation() -> None:
    perfect = rank_correlation([1, 10, 100, np.nan], [9, 8, 1, 5])
    assert (perfect.rho, perfect.n) == (pytest.approx(-1), 3)
    # Ranks 1 2 3 4 5 against 2 1 4 3 5: 1 - 6 * 4 / (5 * 24)
    assert rank_correlation([1, 2, 3, 4, 5], [20, 10, 40, 30, 50]).rho == pytest.approx(0.8)
    undefined = rank_correlations({"constant": [1, 1, 1], "few": [1, 2, np.nan]}, [1, 2, 3])
    assert all(each.rho is None and each.p is None for each in undefined.values())
    with pytest.raises(UserError, match="2 errors need 2 values, not 3"):
        rank_correlation([1, 2, 3], [1, 2])


def test_seed_noise_by_hand() -> None:
    noise = seed_noise([[1, 3], [10, 14], [5]])
    assert noise is not None
    assert noise.n == 2
    assert noise.median_sd == pytest.approx(1.5 * np.sqrt(2))
    assert noise.share == pytest.approx((2 / 2 + 8 / 2) / 2 / 50)
    assert seed_noise([[1], [2]]) is None
    alone = seed_noise([[1, 3]])
    assert alone is not None
    assert alone.share is None


def test_seed_noise_finds_the_share_that_was_put_in() -> None:
    generator = np.random.default_rng(0)
    networks = generator.normal(10, 2, 3000)
    noise = seed_noise(networks[:, None] + generator.normal(0, 1, (3000, 3)))
    assert noise is not None
    assert noise.share == pytest.approx((1 / 3) / (4 + 1 / 3), rel=0.1)
    assert noise.median_sd == pytest.approx(np.sqrt(np.log(2)), rel=0.05)  # of a chi-squared with 2 degrees


def stages(widths: dict[int, int]) -> list[Stage]:
    """Stages from width: depth."""
    return [Stage(block="bottleneck", depth=depth, width=width) for width, depth in widths.items()]


REGNETS = [
    {"w0": 24, "wa": 36.44, "wm": 2.49, "depth": 13},
    {"w0": 232, "wa": 115.89, "wm": 2.53, "depth": 18},
    {"w0": 8, "wa": 200.0, "wm": 1.6, "depth": 30},
    {"w0": 256, "wa": 8.5, "wm": 2.9, "depth": 55},
]


@pytest.mark.parametrize("regnet", REGNETS)
def test_a_regnet_is_a_quantised_linear_network(regnet: dict[str, Any]) -> None:
    made = regnet_stages(**regnet)
    fit = fit_quantised_linear(stages(dict(zip(made.widths, made.depths, strict=True))))
    assert fit.e_fit < 0.01
    assert fit.depth == regnet["depth"]


@pytest.mark.parametrize("widths", [{64: 2, 128: 2, 256: 2, 512: 2}, {48: 3, 40: 1, 400: 4}, {512: 4, 64: 4}])
def test_e_fit_is_the_mean_log_ratio_to_the_regnet_of_its_parameters(widths: dict[int, int]) -> None:
    fit = fit_quantised_linear(stages(widths))
    made = regnet_stages(w0=fit.w0, wa=fit.wa, wm=fit.wm, depth=fit.depth)
    fitted = np.repeat(made.widths, made.depths)
    actual = np.repeat(list(widths), list(widths.values()))
    assert fit.e_fit == pytest.approx(np.abs(np.log(actual / fitted)).mean())
    assert fit.e_fit > 0.05


def test_e_fit_of_simple_networks() -> None:
    constant = fit_quantised_linear(stages({64: 10}))
    assert (constant.e_fit, constant.w0) == (0, 64)
    assert fit_quantised_linear(stages({96: 1})).e_fit == 0
    # Widths that fall: the best is one width between them, half of ln(8) from each.
    falling = fit_quantised_linear(stages({512: 4, 64: 4}))
    assert falling.e_fit == pytest.approx(np.log(8) / 2, abs=0.02)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ([Stage(block="mb3", depth=1)], "needs the width of every stage"),
        ([], "at least one block"),
    ],
)
def test_e_fit_refuses(network: list[Stage], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_quantised_linear(network)
