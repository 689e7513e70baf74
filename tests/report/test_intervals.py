"""Intervals of means, against what they promise."""

import numpy as np
import pytest
import scipy.stats

from headkv.report.stats.intervals import (
    Sample,
    binomial_ci,
    bootstrap_ci,
    bootstrap_cis,
    mean_ci,
    mean_cis,
)


def test_bootstrap_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(300):
        scores = 100.0 * (rng.random(80) < 0.7)
        low, high = bootstrap_ci([scores], resamples=500)
        inside += low <= 70 <= high
    assert 0.90 <= inside / 300 <= 0.985


def test_bootstrap_is_seeded_and_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [np.arange(50.0), np.arange(20.0) * 5]
    whole = bootstrap_ci(scores)
    assert whole == bootstrap_ci(scores)
    assert bootstrap_ci(scores, seed=1) != whole
    assert whole[0] < 36 < whole[1]
    monkeypatch.setattr("headkv.report.stats.intervals.BATCH", 1000)
    assert bootstrap_ci(scores) == pytest.approx(whole, abs=1.0)


def test_interval_of_all_hits_is_not_a_point() -> None:
    # Clopper-Pearson: the low end solves p^50 = 0.025.
    assert mean_ci([[100.0] * 50]) == pytest.approx((100 * 0.025 ** (1 / 50), 100.0))
    assert mean_ci([[0.0] * 25, [0.0] * 25]) == pytest.approx((0.0, 100 - 100 * 0.025 ** (1 / 50)))


def test_a_task_of_one_example_is_drawn_as_it_is() -> None:
    assert all(np.isnan(bootstrap_ci([[3.0], [5.0]])))
    low, high = bootstrap_ci([[40.0], [0.0, 100.0]])
    assert (low, high) == (20.0, 70.0)


def test_scores_and_their_weights_are_drawn_together() -> None:
    # Of 0 and 100 with weights 3 and 1, the mean of both is 25, of one twice 0 or 100.
    assert bootstrap_ci([[0.0, 100.0]], [[3.0, 1.0]]) == (0.0, 100.0)
    assert bootstrap_ci([[50.0, 50.0]], [[3.0, 1.0]]) == (50.0, 50.0)


def test_draws_are_scipys() -> None:
    scores = 100.0 * (np.random.default_rng(2).random(50) < 0.4)
    wanted = scipy.stats.bootstrap(
        (scores,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert bootstrap_ci([scores]) == pytest.approx((wanted.low, wanted.high))


def test_intervals_found_together_are_those_found_alone() -> None:
    rng = np.random.default_rng(0)
    samples = [Sample([rng.random(30), rng.random(9)]) for _ in range(4)]
    samples.append(Sample([rng.random(7)], [rng.integers(1, 4, 7)]))
    together = bootstrap_cis(samples)
    for sample, interval in zip(samples, together, strict=True):
        alone = bootstrap_ci(sample.groups, sample.weights)
        assert interval == pytest.approx(alone)


@pytest.mark.parametrize(
    "groups", [[[0.0] * 20, [100.0] * 20], [[40.0] * 20], [[100.0] * 3, [50.0] * 3]]
)
def test_equal_scores_within_every_task_are_no_certainty(groups: list[list[float]]) -> None:
    """Tasks that are each all right or all wrong have a mean that no resampling changes."""
    low, high = mean_ci(groups)
    mean = np.mean([group[0] for group in groups])
    assert low < mean - 5 and mean + 5 < high
    wider = mean_ci([group[: len(group) // 2] for group in groups])
    assert wider[0] < low and high < wider[1]


def test_a_difference_that_is_always_the_same_has_an_interval() -> None:
    same, won = mean_cis([Sample([[0.0] * 20]), Sample([[100.0] * 20])], signed=True)
    assert same == pytest.approx((-16.8433, 16.8433), abs=1e-3)  # Clopper-Pearson of 0 of 20
    assert won[0] == pytest.approx(100 - 16.8433 * 2**0.5, abs=1e-3) and won[1] == 100.0


@pytest.mark.parametrize("rates", [(0.02, 0.97), (0.005, 0.995), (0.5, 0.9), (0.0, 1.0)])
def test_the_binomial_interval_holds_the_mean_at_least_as_often_as_it_says(
    rates: tuple[float, ...],
) -> None:
    rng, inside = np.random.default_rng(1), 0
    for _ in range(400):
        low, high = binomial_ci([100.0 * (rng.random(20) < rate) for rate in rates])
        inside += low <= 50 * sum(rates) <= high
    assert inside / 400 >= 0.95
