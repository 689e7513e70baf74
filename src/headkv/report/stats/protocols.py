"""`protocol=paper` against `protocol=corrected`, on the examples that both answered."""

from typing import Any

import pandas as pd

from headkv.report.stats.paired import compare
from headkv.report.stats.scored import Scored, scored
from headkv.report.stats.significance import holm
from headkv.report.stats.summary import ALL_TASKS, expected_counts

COLUMNS = [
    "method",
    "compress_on",
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
        One line a method, `compress_on`, KV size and task ("all": the mean of the tasks) and pair
        of granularities: the means of `paper` and `corrected`, and their `difference` (corrected
        minus paper) with what `compare` finds (`first` is corrected); `p_holm` is corrected over
        all lines of a task. Only numbers of whole cells are given.
    """
    expected = expected_counts(rows)
    cells: dict[tuple[Any, ...], dict[tuple[str, str], Scored]] = {}
    for (method, protocol, granularity, on, size), cell in scored(rows).items():
        cells.setdefault((method, on, size), {})[protocol, granularity] = cell
    heads: list[dict[str, Any]] = []
    pairs: list[tuple[Scored, Scored]] = []
    for (method, on, size), variants in cells.items():
        for (old_protocol, old_name), old in variants.items():
            for (new_protocol, new_name), new in variants.items():
                if (old_protocol, new_protocol) != ("paper", "corrected"):
                    continue
                head = {"method": method, "compress_on": on, "kv_size": size}
                head |= {"paper_granularity": old_name, "corrected_granularity": new_name}
                both = [{old.names[task] for task in set(part.tasks)} for part in (old, new)]
                for task in sorted(both[0] & both[1]):
                    heads.append(head | {"task": task})
                    pairs.append((new.of(task), old.of(task)))
                heads.append(head | {"task": ALL_TASKS})
                pairs.append((new, old))
    counts = [expected.sum() if h["task"] == ALL_TASKS else expected[h["task"]] for h in heads]
    lines = []
    for head, (new, old), line in zip(heads, pairs, compare(pairs, counts), strict=True):
        if line["n"] == line["expected"]:
            line |= {"corrected": new.sample().mean, "paper": old.sample().mean}
        lines.append(head | line)
    frame = pd.DataFrame(lines, columns=COLUMNS)
    frame["kv_size"] = frame["kv_size"].astype("Int64")
    for _, family in frame.groupby("task"):
        frame.loc[family.index, "p_holm"] = holm(family["p"].to_numpy(dtype=float))
    return frame
