"""Paired tests and the correction of a family, by hand."""

import numpy as np
import pytest
import scipy.stats

from headkv.report.stats.intervals import Sample
from headkv.report.stats.significance import (
    discordant,
    examples_needed,
    holm,
    mcnemar,
    permutation_test,
    permutation_tests,
)


def test_mcnemar_by_hand() -> None:
    first, second = (
        [100.0] * 9 + [0.0] * 3 + [100.0] * 5,
        [0.0] * 8 + [100.0] * 3 + [0.0] + [100.0] * 5,
    )
    assert discordant(first, second) == (8, 2)
    # two-sided: 2 * P(at most 2 of 10 fair coins) = 2 * (1 + 10 + 45) / 1024
    assert mcnemar(first, second) == pytest.approx(112 / 1024)
    assert mcnemar([100.0, 0.0], [100.0, 0.0]) == 1.0
    assert mcnemar([100.0] * 6, [0.0] * 6) == pytest.approx(2 / 64)


def test_holm_by_hand() -> None:
    # ordered 0.01 0.03 0.04, times 3 2 1, never falling; a test not run is not counted
    assert holm([0.04, 0.01, np.nan, 0.03]) == pytest.approx(
        [0.06, 0.03, np.nan, 0.06], nan_ok=True
    )
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]


def test_permutation_test() -> None:
    # Every sign pattern but two leaves |mean| smaller: p is near 2 / 2^8.
    assert permutation_test([np.ones(8)]) == pytest.approx(2 / 256, abs=0.004)
    assert permutation_test([np.zeros(5)]) == 1.0
    assert permutation_test([np.array([3.0, -3.0, 2.0, -2.0])]) == 1.0
    # In a mean of task means the one example outweighs the eight: no signs fall below |2 - 0.5|.
    assert permutation_test([np.array([4.0]), np.full(8, -1.0)]) == 1.0
    assert permutation_test([np.concatenate([[4.0], np.full(8, -1.0)])]) < 0.7


def test_few_pairs_are_permuted_in_every_way() -> None:
    # All 2^3 signs of (3, 2, 1): only two reach 6, four reach |3 + 2 - 1| = 4.
    assert permutation_test([np.array([3.0, 2.0, 1.0])]) == 2 / 8
    assert permutation_test([np.array([3.0, 2.0, -1.0])]) == 4 / 8
    assert permutation_test([np.array([7.0])]) == 1.0
    many = np.arange(40.0) - 12
    assert permutation_test([many]) == permutation_test([many])
    assert permutation_test([many], seed=1) != permutation_test([many])


def test_tests_made_together_are_those_made_alone() -> None:
    rng = np.random.default_rng(0)
    samples = [Sample([rng.normal(0.3, 1, 40), rng.normal(0, 1, 20)]) for _ in range(3)]
    few = Sample([np.array([3.0, 2.0, -1.0]), np.zeros(40)])
    assert permutation_tests([*samples, few]) == [
        permutation_tests([s])[0] for s in [*samples, few]
    ]


def test_permutation_against_scipy() -> None:
    differences = np.random.default_rng(0).normal(0.25, 1, 60)
    wanted = scipy.stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=9999, rng=0
    ).pvalue
    assert permutation_test([differences]) == pytest.approx(wanted, abs=0.01)


def test_as_many_examples_as_would_show_a_difference() -> None:
    """Against the formula of a paired t test's power, and by drawing samples of that size."""
    rng = np.random.default_rng(0)
    apart = rng.choice([-100.0, 0.0, 100.0], size=4000, p=[0.1, 0.6, 0.3])
    needed = examples_needed(Sample([apart[:2000], apart[2000:]]))
    assert needed == pytest.approx((1.96 + 0.8416) ** 2 * apart.var() / apart.mean() ** 2, rel=0.03)
    drawn = rng.choice(apart, size=(2000, int(needed)))
    told = np.abs(drawn.mean(1)) > 1.96 * drawn.std(1, ddof=1) / np.sqrt(needed)
    assert 0.75 < told.mean() < 0.86
    assert examples_needed(Sample([np.full(3, 100.0)])) == 6
    assert np.isnan(examples_needed(Sample([np.zeros(3)])))
