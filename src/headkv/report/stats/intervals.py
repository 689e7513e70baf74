"""Means over tasks and their 95 % intervals: a bootstrap with tasks as strata.

The percentile bootstrap (Efron & Tibshirani 1993, chapter 13) as `scipy.stats.bootstrap` draws it,
seed for seed, with one difference: samples of the same sizes share their draws, so that the
intervals of all cells of a table are a few matrix products.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

Floats = NDArray[np.float64]
Interval = tuple[float, float]
BATCH = 8_000_000  # places drawn at once, by which the draws of a seed are defined
BLOCK = 2_000_000  # counts multiplied at once: bounds the memory
LEVEL = 0.95
RESAMPLES = 4000
NONE = float("nan"), float("nan")


class Sample:
    """Scores of one mean, task by task.

    Args:
        groups: scores, one array a task.
        weights: of the scores within their task, alike; all the same when None.
    """

    def __init__(
        self, groups: Sequence[ArrayLike], weights: Sequence[ArrayLike] | None = None
    ) -> None:
        self.groups = [np.asarray(group, dtype=np.float64) for group in groups]
        self.weights = (
            [np.ones_like(group) for group in self.groups]
            if weights is None
            else [np.asarray(each, dtype=np.float64) for each in weights]
        )

    @property
    def mean(self) -> float:
        """Mean over the tasks of each task's mean."""
        pairs = zip(self.groups, self.weights, strict=True)
        return float(np.mean([np.average(group, weights=share) for group, share in pairs]))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of scores of each task."""
        return tuple(map(len, self.groups))

    @property
    def fixed(self) -> bool:
        """Whether each task's scores are all equal, so that every draw has the same mean."""
        return all(len(group) > 0 and np.ptp(group) == 0 for group in self.groups)


def group_mean(groups: Sequence[ArrayLike], weights: Sequence[ArrayLike] | None = None) -> float:
    """Mean over the groups of each group's mean; see `Sample`."""
    return Sample(groups, weights).mean


def bootstrap_ci(
    groups: Sequence[ArrayLike], weights: Sequence[ArrayLike] | None = None, **options: Any
) -> Interval:
    """`bootstrap_cis` of one sample."""
    return bootstrap_cis([Sample(groups, weights)], **options)[0]


def bootstrap_cis(
    samples: Sequence[Sample],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Interval]:
    """Percentile bootstrap intervals of the samples' means; each task is resampled within itself.

    Args:
        samples: as many as one likes; those of the same sizes are drawn together.
        level: the share of intervals that should hold the true mean.
        resamples: how many resampled means.
        seed: the same seed and scores give the same interval.

    Returns:
        The intervals' low and high ends; NaN where no task has two scores to draw from.
    """
    found: list[Interval] = [NONE] * len(samples)
    alike: dict[tuple[int, ...], list[int]] = {}
    for place, sample in enumerate(samples):
        alike.setdefault(sample.sizes, []).append(place)
    ends = [(1 - level) / 2, (1 + level) / 2]
    for sizes, places in alike.items():
        if all(size < 2 for size in sizes):
            continue
        means = _resampled([samples[place] for place in places], sizes, resamples, seed)
        low, high = np.percentile(means, [100 * end for end in ends], axis=0)
        for place, interval in zip(places, zip(low, high, strict=True), strict=True):
            found[place] = (float(interval[0]), float(interval[1]))
    return found


def _resampled(
    samples: Sequence[Sample], sizes: tuple[int, ...], resamples: int, seed: int
) -> Floats:
    """The means of resampled samples, `[resample, sample]`; a task of one score stays as it is."""
    several = [group for group, size in enumerate(sizes) if size > 1]
    means = np.zeros((resamples, len(samples)))
    for group, size in enumerate(sizes):
        if size == 1:
            means += [float(sample.groups[group][0]) for sample in samples]
    # Columns of a task: every sample's weighted scores, then every sample's weights.
    columns = {}
    for group in several:
        weights = np.stack([sample.weights[group] for sample in samples], axis=1)
        scores = np.stack([sample.groups[group] for sample in samples], axis=1) * weights
        columns[group] = np.concatenate([scores, weights], axis=1)
    for first, group, counts in _counts(
        {group: sizes[group] for group in several}, resamples, seed
    ):
        step = max(1, BLOCK // counts.shape[1])
        for start in range(0, len(counts), step):
            drawn = counts[start : start + step].astype(np.float64) @ columns[group]
            part = slice(first + start, first + start + len(drawn))
            means[part] += drawn[:, : len(samples)] / drawn[:, len(samples) :]
    return means / len(sizes)


def _counts(
    sizes: dict[int, int], resamples: int, seed: int
) -> Iterator[tuple[int, int, NDArray[np.integer[Any]]]]:
    """How often each example is drawn: first resample, task, `[resample, example]`, batch by batch.

    Places are drawn in the order in which `scipy.stats.bootstrap` draws them.
    """
    rng = np.random.default_rng(seed)
    batch = min(resamples, max(1, BATCH // sum(sizes.values())))
    for first in range(0, resamples, batch):
        rows = min(batch, resamples - first)
        for group, size in sizes.items():
            places = rng.integers(0, size, (rows, size))
            places += np.arange(rows)[:, None] * size
            counts = np.bincount(places.ravel(), minlength=rows * size).reshape(rows, size)
            yield first, group, counts.astype(np.uint16)


def mean_ci(
    groups: Sequence[ArrayLike],
    weights: Sequence[ArrayLike] | None = None,
    *,
    level: float = LEVEL,
) -> Interval:
    """`mean_cis` of one sample."""
    return mean_cis([Sample(groups, weights)], level=level)[0]


def mean_cis(
    samples: Sequence[Sample], *, level: float = LEVEL, signed: bool = False
) -> list[Interval]:
    """Intervals of means of scores 0..100, none of them of zero width.

    Where every task's scores are all equal, any resampling gives the same mean again, and the
    bootstrap would claim certainty. There `binomial_ci` takes its place.

    Args:
        samples: scores in percent.
        level: the share of intervals that should hold the true mean.
        signed: the scores are differences of two such scores, -100..100.

    Returns:
        The intervals' low and high ends in percent.
    """
    found = bootstrap_cis(samples, level=level)
    for place, sample in enumerate(samples):
        if sample.fixed:
            found[place] = binomial_ci(sample.groups, level=level, signed=signed)
    return found


def binomial_ci(
    groups: Sequence[ArrayLike], *, level: float = LEVEL, signed: bool = False
) -> Interval:
    """Interval of a mean of task means that is never narrower than hits and misses allow.

    Scores in 0..100 spread at most as hits and misses of the same mean do, so each task's true mean
    is bounded as a hit rate is, by the exact interval of Clopper & Pearson (1934): 50 hits in 50
    are [92.9, 100]. Tasks that are all hits alike, or all misses, are one sample. Else the mean's
    ends are as far from it as the root of the tasks' squared distances: MOVER (Zou, Huang & Zhang
    2009, "A note on confidence interval estimation for a linear function of binomial proportions",
    Computational Statistics & Data Analysis 53), which assumes only that tasks are independent.
    A difference is what one side wins minus what the other wins, each bounded like this.

    Args:
        groups: scores in percent, one array a task.
        level: the share of intervals that should hold the true mean, at least.
        signed: the scores are differences, -100..100.

    Returns:
        The interval's low and high end in percent.
    """
    scores = [np.asarray(group, dtype=np.float64) for group in groups]
    sides = [(1.0, [np.clip(group, 0, None) for group in scores])]
    if signed:
        sides.append((-1.0, [np.clip(-group, 0, None) for group in scores]))
    mean, below, above = 0.0, 0.0, 0.0
    for sign, parts in sides:
        means, sizes = np.array([part.mean() for part in parts]), np.array(list(map(len, parts)))
        if np.ptp(means) == 0 and means[0] in (0.0, 100.0):
            means, sizes = means[:1], sizes.sum(keepdims=True)
        low, high = _clopper_pearson(sizes * means / 100, sizes, level)
        ends = [float(((end - means) ** 2).sum()) / len(means) ** 2 for end in (low, high)]
        mean += sign * float(means.mean())
        below += ends[0 if sign > 0 else 1]
        above += ends[1 if sign > 0 else 0]
    least = -100.0 if signed else 0.0
    return max(least, mean - float(np.sqrt(below))), min(100.0, mean + float(np.sqrt(above)))


def _clopper_pearson(hits: Floats, sizes: NDArray[np.int64], level: float) -> tuple[Floats, Floats]:
    """Ends in percent, quantiles of beta distributions, which parts of a hit have as well."""
    tail, least = (1 - level) / 2, 1e-9
    low = np.where(hits > 0, beta.ppf(tail, np.maximum(hits, least), sizes - hits + 1), 0)
    high = np.where(hits < sizes, beta.ppf(1 - tail, hits + 1, np.maximum(sizes - hits, least)), 1)
    return 100 * low, 100 * high
