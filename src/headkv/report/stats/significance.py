"""Paired tests of two methods on the same examples, and Holm's correction of a family of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from headkv.report.stats.intervals import Floats

BATCH = 500_000  # numbers drawn at once: bounds the memory, not the result
DECIMALS = 9  # sums of the same numbers in another order differ in the last bits only


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
    return float(stats.binomtest(only_first, pairs).pvalue) if pairs else 1.0


def discordant(first: ArrayLike, second: ArrayLike) -> tuple[int, int]:
    """How many examples the first method does better on, and how many the second.

    Args:
        first: scores, one an example.
        second: the same examples under the other method.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return int((difference > 0).sum()), int((difference < 0).sum())


def permutation_test(
    differences: Sequence[ArrayLike],
    weights: Sequence[ArrayLike] | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided paired permutation test: how often do other signs reach the mean difference.

    Args:
        differences: first score minus second, one array a task.
        weights: of the differences, alike; all the same when None.
        resamples: random sign patterns; where there are no more patterns than that, each is tried
            once and p is exact.
        seed: the same seed and differences give the same p.

    Returns:
        p; among random patterns the observed one counts as one of them (Phipson & Smyth 2010), so
        that p is never below 1 / (resamples + 1).
    """
    # A pair's weight in the mean of the group means; ties add nothing under either sign.
    groups = [np.asarray(group, dtype=np.float64) for group in differences]
    shares = [np.asarray(w, np.float64) for w in weights or [np.ones_like(g) for g in groups]]
    pairs = zip(groups, shares, strict=True)
    weighted = np.concatenate([g * w / (len(groups) * w.sum()) for g, w in pairs])
    weighted = weighted[weighted != 0]
    if len(weighted) < 2:  # both signs of a single difference are as far from zero
        return 1.0

    def size(signed: Floats, axis: int) -> Floats:
        return np.abs(signed.sum(axis=axis)).round(DECIMALS)

    found = stats.permutation_test(
        (weighted,),
        size,
        permutation_type="samples",
        alternative="greater",
        n_resamples=resamples,
        batch=max(1, BATCH // len(weighted)),
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down correction over one family of tests (Holm 1979).

    Args:
        p_values: one a test; NaN for a test that was not made, which the family is without.

    Returns:
        The corrected p values in the order given, NaN where there was none.
    """
    p = np.asarray(p_values, dtype=np.float64)
    corrected = np.full_like(p, np.nan)
    order = [int(i) for i in np.argsort(p) if not np.isnan(p[i])]
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p[i]))
        corrected[i] = largest
    return corrected
