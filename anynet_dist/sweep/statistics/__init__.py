"""Statistics of populations: pure functions of arrays, each defined with its source in docs/statistics.md."""

from anynet_dist.sweep.statistics.bootstrap import BestRange, best_range, bootstrap_medians
from anynet_dist.sweep.statistics.columns import numeric_columns, trained_errors
from anynet_dist.sweep.statistics.comparison import Comparison, compare
from anynet_dist.sweep.statistics.correlation import Correlation, rank_correlation, rank_correlations
from anynet_dist.sweep.statistics.edf import Edf, edf, edf_band
from anynet_dist.sweep.statistics.efficiency import SearchEfficiency, search_efficiency
from anynet_dist.sweep.statistics.normalised import ComplexityWeights, complexity_weights
from anynet_dist.sweep.statistics.power import ks_critical, ks_detectable, ks_power
from anynet_dist.sweep.statistics.quantised_linear import QuantisedLinearFit, fit_quantised_linear
from anynet_dist.sweep.statistics.seeds import SeedNoise, seed_noise

__all__ = [
    "BestRange",
    "Comparison",
    "ComplexityWeights",
    "Correlation",
    "Edf",
    "QuantisedLinearFit",
    "SearchEfficiency",
    "SeedNoise",
    "best_range",
    "bootstrap_medians",
    "compare",
    "complexity_weights",
    "edf",
    "edf_band",
    "fit_quantised_linear",
    "ks_critical",
    "ks_detectable",
    "ks_power",
    "numeric_columns",
    "rank_correlation",
    "rank_correlations",
    "search_efficiency",
    "seed_noise",
    "trained_errors",
]
