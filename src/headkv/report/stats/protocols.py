"""`protocol=paper` against `protocol=corrected`, on the examples that both answered."""

from typing import Any

import pandas as pd

from headkv.report.stats.intervals import group_mean
from headkv.report.stats.paired import compare
from headkv.report.stats.significance import holm
from headkv.report.stats.summary import ALL_TASKS, expected_counts, weights_of

COLUMNS = [
    "method",
    "kv_size",
    "task",
    "paper_granularity",
    "corrected_granularity",
    "n",
    "expected",
    "paper",
    "corrected",
    "difference",
    "ci_low",
    "ci_high",
    "first_better",
    "second_better",
    "test",
    "p",
    "p_holm",
]


def protocol_differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Every method and size that ran under both protocols.

    Args:
        rows: of one benchmark and model, as `load_results` gives them.

    Returns:
        One line a method, KV size and task ("all": the mean of the tasks) and pair of
        granularities: the means of `paper` and `corrected`, and their `difference` (corrected minus
        paper) with what `compare` finds (`first` is corrected); `p_holm` is corrected over all
        lines of a task. Only numbers of whole cells are given.
    """
    expected = expected_counts(rows)
    lines: list[dict[str, Any]] = []
    for (method, size), cell in rows.groupby(["method", "kv_size"], dropna=False):
        for old_name, old in cell[cell["protocol"] == "paper"].groupby("granularity"):
            for new_name, new in cell[cell["protocol"] == "corrected"].groupby("granularity"):
                head = {"method": method, "kv_size": size}
                head |= {"paper_granularity": old_name, "corrected_granularity": new_name}
                tasks = sorted(set(old["task"]) & set(new["task"]))
                for task in [*tasks, ALL_TASKS]:
                    one = [
                        part if task == ALL_TASKS else part[part["task"] == task]
                        for part in (new, old)
                    ]
                    of = int(expected.sum() if task == ALL_TASKS else expected[task])
                    found = compare(one[0], one[1], of)
                    if found["n"] == of:
                        found |= {"corrected": _mean(one[0]), "paper": _mean(one[1])}
                    lines.append(head | {"task": task} | found)
    frame = pd.DataFrame(lines, columns=COLUMNS)
    frame["kv_size"] = frame["kv_size"].astype("Int64")
    for _, family in frame.groupby("task"):
        frame.loc[family.index, "p_holm"] = holm(family["p"].to_numpy(dtype=float))
    return frame


def _mean(rows: pd.DataFrame) -> float:
    parts = [part for _, part in rows.groupby("task")]
    return group_mean([part["score"] for part in parts], [weights_of(part) for part in parts])
