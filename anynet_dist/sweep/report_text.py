"""What the report explains in words."""

DEFINITIONS = {
    "top-1 error": (
        "Percent of the evaluated images whose most likely class is wrong, at the end of training; "
        "the mean where a network was trained several times."
    ),
    "EDF": (
        "The empirical distribution function: the share of networks with an error of at most e. The "
        "curve that lies above belongs to the space with the better networks. The band holds 95 % of "
        "bootstrap resamples, at each error by itself."
    ),
    "normalised EDF": (
        "The EDF with weights that give each population the same distribution of multiply-adds: "
        "uniform over the bins that all of them reach. It takes away what larger networks gain by "
        "their size alone."
    ),
    "best of k": (
        "The lowest error among k networks drawn from the population, on average, with the 5th and "
        "95th percentiles: what a random search of k trainings finds."
    ),
    "best range": (
        "Where the best networks lie: of draws of 25 % of the networks, with replacement, the value "
        "that the network with the lowest error has; median and 95 % interval of all draws."
    ),
    "KS distance": (
        "The two-sample Kolmogorov-Smirnov statistic: the largest gap between two EDFs. p is how "
        "often networks of one and the same space are at least this far apart. Critical is the gap "
        "from which p falls below 0.05; detectable is the smallest true gap that so many networks "
        "show in 80 % of cases."
    ),
    "rank correlation": (
        "Spearman's: 1 where the error rises with the measure throughout, -1 where it falls."
    ),
    "e_fit": (
        "How far the widths of a network's blocks lie from the nearest quantised linear function, as"
        " RegNet's are: the mean of |ln(width / fitted width)|; 0 is a perfect fit. Shown for up to 300"
        " networks in all."
    ),
    "seed noise": ("The median standard deviation among trainings of one network that differ in their seed."),
    "Pareto front": ("The networks that no other one beats in both error and multiply-adds."),
    "searched": (
        "A searched population was steered towards low errors. It says nothing about how good the "
        "networks of its space are, so it stays out of EDFs and comparisons."
    ),
}
