"""TODO."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from headkv.report.stats.intervals import CHUNK, Floats


def is_hit_or_miss(scores: ArrayLike) -> bool:
    """Whether every score is 0 or 100."""
    return bool(np.isin(np.asarray(scores, dtype=np.float64), (0.0, 100.0)).all())


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """Exact two-sided McNemar test of paired hits and misses (McNemar 1947, binomial form).

    Args:
        first: 0 or 100, one an example.
        second: the same examples under the other method.

    Returns:
        p; 1 when the methods never disagree.
    """
    only_first, only_second = discordant(first, second)
    pairs = only_first + only_second
    return float(binomtest(only_first, pairs).pvalue) if pairs else 1.0


def discordant(first: ArrayLike, second: ArrayLike) -> tuple[int, int]:
    """How many examples the first method does better on, and how many the second."""
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return int((difference > 0).sum()), int((difference < 0).sum())


def permutation_test(
    differences: Sequence[ArrayLike],
    weights: Sequence[ArrayLike] | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided paired permutation test: how often do random signs reach the mean difference.

    Args:
        differences: first score minus second, one array a task.
        weights: of the differences, alike; all the same when None.
        resamples: random sign patterns; p is never below 1 / (resamples + 1).
        seed: the same seed and differences give the same p.

    Returns:
        p, the observed pattern counted among the random ones (Phipson & Smyth 2010).
    """
    # A pair's weight in the mean of the group means; ties add nothing under either sign.
    groups = [np.asarray(group, dtype=np.float64) for group in differences]
    shares = [np.asarray(w, np.float64) for w in weights or [np.ones_like(g) for g in groups]]
    pairs = zip(groups, shares, strict=True)
    weighted = np.concatenate([g * w / (len(groups) * w.sum()) for g, w in pairs])
    weighted = weighted[weighted != 0]
    if not len(weighted):
        return 1.0
    observed = abs(weighted.sum()) - 1e-9  # sums in another order may differ in the last bit
    rng, reached = np.random.default_rng(seed), 0
    step = max(1, CHUNK // len(weighted))
    for start in range(0, resamples, step):
        flips = rng.integers(2, size=(min(step, resamples - start), len(weighted)), dtype=np.int8)
        reached += int((np.abs((1 - 2 * flips) @ weighted) >= observed).sum())
    return (reached + 1) / (resamples + 1)


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down correction over one family of tests (Holm 1979); NaNs stay outside it."""
    p = np.asarray(p_values, dtype=np.float64)
    corrected = np.full_like(p, np.nan)
    order = [int(i) for i in np.argsort(p) if not np.isnan(p[i])]
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p[i]))
        corrected[i] = largest
    return corrected
