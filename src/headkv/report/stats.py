"""Means with intervals, and paired tests between methods.

Scores are 0..100. A mean over several tasks is the mean of the task means, as the LongBench
tables have it, so groups of scores stay apart here until the last step. Within a task every example
weighs the same, but for clozes: LooGLE averages over blanks, and a row says how many it has.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from headkv.report.style import method_order

Floats = NDArray[np.float64]
ALL_TASKS = "all"
VARIANT = ["method", "protocol", "granularity"]  # what a line of a table stands for
CELL = [*VARIANT, "kv_size"]
REFERENCES = ("headkv_r2", "snapkv", "adakv")  # every method is tested against each of these
TEST_COLUMNS = [
    "kv_size", "protocol", "granularity", "first", "second", "n", "expected", "difference",
    "ci_low", "ci_high", "first_better", "second_better", "test", "p", "p_holm",
]  # fmt: skip
MB = 1e6
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


def expected_counts(rows: pd.DataFrame) -> "pd.Series[int]":
    """Examples a task should have: as many as its most complete cell, failed ones included.

    Args:
        rows: of one benchmark and model.
    """
    cells = rows.assign(failed=rows.get("failed", 0)).groupby([*CELL, "task"], dropna=False)
    return (cells.size() + cells["failed"].first()).groupby(level="task").max()


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """What each cell scored and kept, task by task and over all tasks.

    Args:
        rows: of one benchmark and model, as `load_results` gives them.

    Returns:
        One line a cell and task: the columns of `CELL`, `task` ("all": the mean of the tasks),
        `metric` (empty where tasks differ), `n` examples of `expected`, how many `failed`,
        `accuracy`, `ci_low`, `ci_high`, the means `kept_tokens` and `cache_mb`, `cache_share`
        (percent: all bytes held over all of the full caches). An incomplete cell has NaN for these:
        a mean over whichever examples happened to finish compares with nothing.
    """
    expected = expected_counts(rows)
    lines: list[dict[str, Any]] = []
    for key, cell in rows.groupby(CELL, dropna=False):
        head = dict(zip(CELL, key, strict=True))
        tasks = list(cell.groupby("task"))
        for task, part in tasks:
            lines.append(head | {"task": task} | _describe([part], int(expected[task])))
        whole = _describe([part for _, part in tasks], int(expected.sum()))
        lines.append(head | {"task": ALL_TASKS} | whole)
    frame = pd.DataFrame(lines)
    frame["kv_size"] = frame["kv_size"].astype("Int64")
    return frame


def _describe(parts: list[pd.DataFrame], expected: int) -> dict[str, Any]:
    cell = pd.concat(parts)
    failed = sum(int(part["failed"].iloc[0]) for part in parts if "failed" in part)
    metrics = {_metric(part) for part in parts}
    counts = {"metric": metrics.pop() if len(metrics) == 1 else "", "n": len(cell)}
    counts |= {"expected": expected, "failed": failed}
    if len(cell) < expected:
        names = ("accuracy", "ci_low", "ci_high", "kept_tokens", "cache_mb", "cache_share")
        return counts | dict.fromkeys(names, float("nan"))
    groups = [part["score"].to_numpy(dtype=float) for part in parts]
    weights = [weights_of(part).to_numpy() for part in parts]
    low, high = mean_ci(groups, weights)
    return counts | {
        "accuracy": group_mean(groups, weights),
        "ci_low": low,
        "ci_high": high,
        "kept_tokens": float(cell["kept_tokens"].mean()),
        "cache_mb": float(cell["cache_bytes"].mean()) / MB,
        "cache_share": 100 * float(cell["cache_bytes"].sum() / cell["full_cache_bytes"].sum()),
    }


def weights_of(rows: pd.DataFrame) -> "pd.Series[float]":
    """What each row weighs in its task's mean: a cloze as much as it has blanks, all others 1."""
    return rows.reindex(columns=["blanks"])["blanks"].astype(float).fillna(1.0)


def _metric(rows: pd.DataFrame) -> str:
    """The name of the first of the rows' scores that is their `score` throughout."""
    scores = rows["scores"].to_list() if "scores" in rows else [{}]
    for name in scores[0] if isinstance(scores[0], dict) else {}:
        if all(s.get(name) == score for s, score in zip(scores, rows["score"], strict=True)):
            return str(name)
    return ""


def paired_tests(rows: pd.DataFrame) -> pd.DataFrame:
    """Tests every method against each of `REFERENCES`, at each KV size, on shared examples.

    A pair is tested once, both methods under one protocol and granularity; the tests of one KV
    size, protocol and granularity are one family for Holm's correction. A pair that shares fewer
    examples than expected is not tested.

    Returns:
        One line a pair: `TEST_COLUMNS`, most of them what `compare` finds.
    """
    expected = int(expected_counts(rows).sum())
    lines: list[dict[str, Any]] = []
    setting = ["kv_size", "protocol", "granularity"]
    for key, family in rows[rows["kv_size"].notna()].groupby(setting):
        scores = dict(list(family.groupby("method")))
        tests = [
            {"first": first, "second": second} | compare(scores[first], scores[second], expected)
            for first, second in _pairs(sorted(scores, key=method_order))
        ]
        corrected = holm([test["p"] for test in tests])
        for test, p_holm in zip(tests, corrected, strict=True):
            lines.append(dict(zip(setting, key, strict=True)) | test | {"p_holm": float(p_holm)})
    return pd.DataFrame(lines, columns=TEST_COLUMNS)


def _pairs(methods: list[str]) -> list[tuple[str, str]]:
    """Each unordered pair with a reference in it, the earlier reference named first."""
    ranked = [m for m in REFERENCES if m in methods] + [m for m in methods if m not in REFERENCES]
    return [pair for pair in combinations(ranked, 2) if pair[0] in REFERENCES]


def compare(first: pd.DataFrame, second: pd.DataFrame, expected: int) -> dict[str, Any]:
    """A paired test of two cells: exact McNemar for hits and misses, else a permutation test.

    Args:
        first: rows of one cell.
        second: of the other.
        expected: examples that both should have; with fewer there is no test.

    Returns:
        `n` shared examples of `expected`, `difference` (first minus second, with `ci_low`,
        `ci_high`), `first_better`, `second_better` (examples), `test`, `p`.
    """
    sides = {
        side: rows.assign(weight=weights_of(rows)).set_index(["task", "id"])[["score", "weight"]]
        for side, rows in (("first", first), ("second", second))
    }
    both = pd.concat(sides, axis=1, join="inner").sort_index()
    found: dict[str, Any] = {"n": len(both), "expected": expected, "p": float("nan"), "test": ""}
    if len(both) < expected or both.empty:
        return found
    a, b = both["first"]["score"], both["second"]["score"]
    weights = [part.to_numpy() for _, part in both["first"]["weight"].groupby(level="task")]
    difference = [part.to_numpy(dtype=float) for _, part in (a - b).groupby(level="task")]
    found["difference"] = group_mean(difference, weights)
    found["ci_low"], found["ci_high"] = bootstrap_ci(difference, weights)
    found["first_better"], found["second_better"] = discordant(a, b)
    if is_hit_or_miss(a) and is_hit_or_miss(b) and all(np.ptp(w) == 0 for w in weights):
        return found | {"test": "McNemar", "p": mcnemar(a, b)}
    return found | {"test": "permutation", "p": permutation_test(difference, weights)}
