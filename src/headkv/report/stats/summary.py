"""What each cell scored and kept: means over examples and tasks, with intervals.

Scores are 0..100. A mean over several tasks is the mean of the task means, as the LongBench
tables have it, so groups of scores stay apart here until the last step. Within a task every example
weighs the same, but for clozes: LooGLE averages over blanks, and a row says how many it has.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from headkv.report.stats.intervals import Sample, mean_cis

ALL_TASKS = "all"
# What a line of a table stands for.
VARIANT = ["method", "protocol", "granularity", "compress_on"]
CELL = [*VARIANT, "kv_size"]
MB = 1e6


def expected_counts(rows: pd.DataFrame) -> "pd.Series[int]":
    """Examples a task should have: as many as its most complete cell, failed ones included.

    Args:
        rows: of one benchmark and model.
    """
    cells = rows.assign(failed=rows.get("failed", 0)).groupby([*CELL, "task"], dropna=False)
    return (cells.size() + cells["failed"].first()).groupby(level="task").max()


@dataclass(frozen=True)
class _Part:
    """A task of a cell.

    Attributes:
        counts: `n`, `failed`, and sums of what was held.
        metric: the name of the score.
        scores: of the examples.
        weights: alike.
    """

    counts: dict[str, float]
    metric: str
    scores: Any
    weights: Any


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """What each cell scored and kept, task by task and over all tasks.

    Args:
        rows: of one benchmark and model, as `load_results` gives them.

    Returns:
        One line a cell and task: the columns of `CELL`, `task` ("all": the mean of the tasks),
        `metric` (empty where tasks differ), `n` examples of `expected`, how many `failed`,
        `accuracy`, `ci_low`, `ci_high`, the means `kept_tokens`, `cache_mb` and `seconds`,
        `cache_share` (percent: all bytes held over all of the full caches). An incomplete cell has
        NaN for these: a mean over whichever examples happened to finish compares with nothing.
    """
    expected = expected_counts(rows)
    weights = weights_of(rows)
    seconds = seconds_of(rows)
    lines: list[dict[str, Any]] = []
    samples: dict[int, Sample] = {}
    for key, cell in rows.groupby(CELL, dropna=False):
        head = dict(zip(CELL, key, strict=True))
        tasks = {
            str(task): _part(part, weights[part.index], seconds[part.index])
            for task, part in cell.groupby("task")
        }
        for task, parts, of in [
            *((task, [part], int(expected[task])) for task, part in tasks.items()),
            (ALL_TASKS, list(tasks.values()), int(expected.sum())),
        ]:
            line = head | {"task": task} | _described(parts, of)
            if line["n"] == of:
                samples[len(lines)] = Sample(
                    [part.scores for part in parts], [part.weights for part in parts]
                )
                line["accuracy"] = samples[len(lines)].mean
            lines.append(line)
    intervals = mean_cis(list(samples.values()))
    for place, (low, high) in zip(samples, intervals, strict=True):
        lines[place] |= {"ci_low": low, "ci_high": high}
    frame = pd.DataFrame(lines)
    frame["kv_size"] = frame["kv_size"].astype("Int64")
    return frame


def _part(rows: pd.DataFrame, weights: "pd.Series[float]", seconds: "pd.Series[float]") -> _Part:
    held = ("kept_tokens", "cache_bytes", "full_cache_bytes")
    counts = {name: float(rows[name].sum()) for name in held}
    counts |= {"n": len(rows), "seconds": float(seconds.sum(skipna=False))}
    counts["failed"] = int(rows["failed"].iloc[0]) if "failed" in rows else 0
    scores = rows["score"].to_numpy(dtype=np.float64)
    return _Part(counts, _metric(rows), scores, weights.to_numpy(dtype=np.float64))


def _described(parts: list[_Part], expected: int) -> dict[str, Any]:
    """A line but for its mean and interval."""
    total = {name: sum(part.counts[name] for part in parts) for name in parts[0].counts}
    metrics = {part.metric for part in parts}
    n = int(total["n"])
    counts = {"metric": metrics.pop() if len(metrics) == 1 else "", "n": n}
    counts |= {"expected": expected, "failed": int(total["failed"])}
    scores = dict.fromkeys(("accuracy", "ci_low", "ci_high"), float("nan"))
    if n < expected:
        held = ("kept_tokens", "cache_mb", "cache_share", "seconds")
        return counts | scores | dict.fromkeys(held, float("nan"))
    return counts | {
        **scores,
        "kept_tokens": total["kept_tokens"] / n,
        "cache_mb": total["cache_bytes"] / n / MB,
        "cache_share": 100 * total["cache_bytes"] / total["full_cache_bytes"],
        "seconds": total["seconds"] / n,
    }


def weights_of(rows: pd.DataFrame) -> "pd.Series[float]":
    """What each row weighs in its task's mean: a cloze as much as it has blanks, all others 1."""
    return rows.reindex(columns=["blanks"])["blanks"].astype(float).fillna(1.0)


def seconds_of(rows: pd.DataFrame) -> "pd.Series[float]":
    """Seconds an example took: prefill, compression and decoding; NaN where a row lacks them."""
    given = rows.get("seconds", pd.Series(index=rows.index, dtype=object))
    parts = ("prefill", "compress", "decode")
    return pd.Series(
        [
            sum(float(each.get(name, 0.0)) for name in parts) if isinstance(each, dict) else np.nan
            for each in given
        ],
        index=rows.index,
        dtype=float,
    )


def _metric(rows: pd.DataFrame) -> str:
    """The name of the first of the rows' scores that is their `score` throughout."""
    scores = rows["scores"].to_list() if "scores" in rows else [{}]
    mains = rows["score"].to_list()
    for name in scores[0] if isinstance(scores[0], dict) else {}:
        if all(s.get(name) == score for s, score in zip(scores, mains, strict=True)):
            return str(name)
    return ""
