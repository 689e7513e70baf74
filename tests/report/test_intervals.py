"""Intervals of means, against what they promise."""

import numpy as np
import pytest

from headkv.report.stats.intervals import bootstrap_ci, mean_ci


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
