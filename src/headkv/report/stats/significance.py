"""Paired tests of two methods on the same examples, and Holm's correction of a family of them."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from headkv.report.stats.intervals import Floats, Sample

BLOCK = 2_000_000  # signs multiplied at once: bounds the memory, not the result
DECIMALS = 9  # sums of the same numbers in another order differ in the last bits only
RESAMPLES = 10_000
POWER, LEAST = 0.8, 6  # with fewer examples no exact test can have p < 0.05


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
    return _sign_test(*discordant(first, second))


@lru_cache(maxsize=4096)
def _sign_test(only_first: int, only_second: int) -> float:
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


def examples_needed(sample: Sample, level: float = 0.05) -> float:
    """How many examples would show such a difference: by a normal test, with 80 % power.

    The differences' variance is that about the mean over all tasks: an example more is of any task.

    Args:
        sample: differences of two methods, example by example.
        level: of the two-sided test.

    Returns:
        A whole number; NaN where there is no difference.
    """
    apart, mean = np.concatenate(sample.groups), sample.mean
    if not mean:
        return float("nan")
    quantiles = stats.norm.ppf(1 - level / 2) + stats.norm.ppf(POWER)
    return float(max(np.ceil(quantiles**2 * np.mean((apart - mean) ** 2) / mean**2), LEAST))


def permutation_test(
    differences: Sequence[ArrayLike], weights: Sequence[ArrayLike] | None = None, **options: Any
) -> float:
    """`permutation_tests` of one sample of differences."""
    return permutation_tests([Sample(differences, weights)], **options)[0]


def permutation_tests(
    samples: Sequence[Sample], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[float]:
    """Two-sided paired permutation tests: how often do other signs reach the mean difference.

    Args:
        samples: first score minus second, task by task; samples of as many differences are tested
            together, under the same signs.
        resamples: random sign patterns; where there are no more patterns than that, each is tried
            once and p is exact.
        seed: the same seed and differences give the same p.

    Returns:
        p of each; among random patterns the observed one counts as one of them (Phipson & Smyth
        2010), so that p is never below 1 / (resamples + 1).
    """
    found = [1.0] * len(samples)  # both signs of a single difference are as far from zero
    random: dict[int, list[tuple[int, Floats]]] = {}
    for place, sample in enumerate(samples):
        # A pair's weight in the mean of the task means; ties add nothing under either sign.
        parts = zip(sample.groups, sample.weights, strict=True)
        count = len(sample.groups)
        shares = np.concatenate([group * w / (count * w.sum()) for group, w in parts])
        telling = shares[shares != 0]
        if len(telling) >= 2 and 2 ** min(len(telling), 62) <= resamples:
            found[place] = _exact(telling)
        elif len(telling) >= 2:
            random.setdefault(len(shares), []).append((place, shares))
    for size, tested in random.items():
        counts = _as_far(np.stack([shares for _, shares in tested], axis=1), size, resamples, seed)
        for (place, _), count in zip(tested, counts, strict=True):
            found[place] = float(count + 1) / (resamples + 1)
    return found


def _exact(shares: Floats) -> float:
    """p over all sign patterns."""
    patterns = np.arange(2 ** len(shares))[:, None] >> np.arange(len(shares)) & 1
    sums = np.abs((1.0 - 2.0 * patterns) @ shares).round(DECIMALS)
    return float((sums >= sums[0]).mean())  # the first pattern changes no sign


def _as_far(shares: Floats, size: int, resamples: int, seed: int) -> Floats:
    """How many of the random patterns get each column's sum as far from zero as it is."""
    observed = np.abs(shares.sum(axis=0)).round(DECIMALS)
    rng, count = np.random.default_rng(seed), np.zeros(shares.shape[1])
    step = max(1, BLOCK // size)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        bits = np.unpackbits(rng.integers(0, 256, (rows, -(-size // 8)), np.uint8), axis=1)
        sums = (1.0 - 2.0 * bits[:, :size]) @ shares
        count += (np.abs(sums).round(DECIMALS) >= observed).sum(axis=0)
    return count


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
