"""TODO."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

Floats = NDArray[np.float64]


CHUNK = 2_000_000  # numbers drawn at once: bounds the memory, not the result


def group_mean(groups: Sequence[ArrayLike], weights: Sequence[ArrayLike] | None = None) -> float:
    """Mean over the groups of each group's mean, weighted within the group if weights are given."""
    pairs: Any = zip(groups, weights or [np.ones_like(each) for each in groups], strict=True)
    return float(np.mean([np.average(each, weights=share) for each, share in pairs]))


def bootstrap_ci(
    groups: Sequence[ArrayLike],
    weights: Sequence[ArrayLike] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 4000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `group_mean`; each group is resampled within itself.

    Args:
        groups: scores, one array a task.
        weights: of the scores, alike; all the same when None.
        level: the share of intervals that should hold the true mean.
        resamples: how many resampled means.
        seed: the same seed and scores give the same interval.

    Returns:
        The interval's low and high end; NaN where no group has two scores to draw from.
    """
    if all(np.size(group) < 2 for group in groups):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = np.zeros(resamples)
    for place, group in enumerate(groups):
        scores = np.asarray(group, dtype=np.float64)
        weight = np.asarray(weights[place] if weights else np.ones_like(scores), dtype=np.float64)
        step = max(1, CHUNK // len(scores))
        for start in range(0, resamples, step):
            shape = (min(step, resamples - start), len(scores))
            drawn = rng.integers(len(scores), size=shape)
            total = (scores * weight)[drawn].sum(axis=1)
            means[start : start + step] += total / weight[drawn].sum(axis=1) / len(groups)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_ci(
    groups: Sequence[ArrayLike],
    weights: Sequence[ArrayLike] | None = None,
    *,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of the mean of scores 0..100, also where every score is 0 or every score is 100.

    There the bootstrap would claim certainty; the exact binomial (Clopper-Pearson) interval is
    given instead: 50 hits in 50 are [92.9, 100].
    """
    scores = np.concatenate([np.asarray(group, dtype=np.float64) for group in groups])
    for extreme in (0.0, 100.0):
        if np.all(scores == extreme):
            hits = len(scores) if extreme else 0
            ci = binomtest(hits, len(scores)).proportion_ci(level, method="exact")
            return 100 * float(ci.low), 100 * float(ci.high)
    return bootstrap_ci(groups, weights, level=level)
