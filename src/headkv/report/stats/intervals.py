"""Means over tasks and their 95 % intervals: SciPy's bootstrap, with tasks as strata."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, bootstrap

Floats = NDArray[np.float64]
BATCH = 8_000_000  # numbers drawn at once: bounds the memory


def group_mean(groups: Sequence[ArrayLike], weights: Sequence[ArrayLike] | None = None) -> float:
    """Mean over the groups of each group's mean.

    Args:
        groups: scores, one array a task.
        weights: of the scores within their group, alike; all the same when None.
    """
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
    scores = [np.asarray(group, dtype=np.float64) for group in groups]
    shares = [np.asarray(w, np.float64) for w in weights or [np.ones_like(g) for g in scores]]
    several = [place for place, group in enumerate(scores) if len(group) > 1]
    if not several:
        return float("nan"), float("nan")
    single = sum((float(group[0]) for group in scores if len(group) == 1), 0.0)

    def mean(*drawn: Floats, axis: int) -> Floats:
        """`group_mean` of the examples whose places are drawn, `[resample]`."""
        total = np.full(drawn[0].shape[:-1], single)
        for place, chosen in zip(several, drawn, strict=True):
            chosen = chosen.astype(np.intp)
            weighted = (scores[place] * shares[place])[chosen].sum(axis=axis)
            total += weighted / shares[place][chosen].sum(axis=axis)
        return total / len(scores)

    # Places are drawn, not scores: a score and its weight stay together.
    found = bootstrap(
        [np.arange(len(scores[place])) for place in several],
        mean,
        n_resamples=resamples,
        batch=min(resamples, max(1, BATCH // sum(map(len, scores)))),
        confidence_level=level,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def mean_ci(
    groups: Sequence[ArrayLike],
    weights: Sequence[ArrayLike] | None = None,
    *,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of the mean of scores 0..100, also where every score is 0 or every score is 100.

    There the bootstrap would claim certainty; the exact binomial (Clopper-Pearson) interval is
    given instead: 50 hits in 50 are [92.9, 100].

    Args:
        groups: scores in percent, one array a task.
        weights: of the scores, alike; all the same when None.
        level: the share of intervals that should hold the true mean.

    Returns:
        The interval's low and high end in percent.
    """
    scores = np.concatenate([np.asarray(group, dtype=np.float64) for group in groups])
    for extreme in (0.0, 100.0):
        if np.all(scores == extreme):
            hits = len(scores) if extreme else 0
            ci = binomtest(hits, len(scores)).proportion_ci(level, method="exact")
            return 100 * float(ci.low), 100 * float(ci.high)
    return bootstrap_ci(groups, weights, level=level)
