"""What each cell scored and kept: means over examples and tasks, with intervals.

Scores are 0..100. A mean over several tasks is the mean of the task means, as the LongBench
tables have it, so groups of scores stay apart here until the last step. Within a task every example
weighs the same, but for clozes: LooGLE averages over blanks, and a row says how many it has.
"""

from typing import Any

import pandas as pd

from headkv.report.stats.intervals import group_mean, mean_ci

ALL_TASKS = "all"
VARIANT = ["method", "protocol", "granularity"]  # what a line of a table stands for
CELL = [*VARIANT, "kv_size"]
MB = 1e6


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
