"""Cells of benchmarks that measure each task in several parts, lengths as a rule.

A benchmark says so in the `meta` of its examples: `column` is the task over all parts, `part` the
example's own. Rows without them are told by their task's name (`qa1_4k`, `vt_4096`) or by
their `bucket`.
"""

import pandas as pd

from headkv.report.stats.best import marked
from headkv.report.stats.summary import ALL_TASKS, summarise

TASK_AT_LENGTH = r"^(.+)_(\d+k|\d{3,})$"


def split_parts(rows: pd.DataFrame) -> pd.DataFrame | None:
    """The rows with `column` (a task over all its parts) and `part` (a length or a bucket of them).

    Args:
        rows: of one benchmark and model.

    Returns:
        None for benchmarks without such parts.
    """
    if {"column", "part"} <= set(rows) and rows[["column", "part"]].notna().all(axis=None):
        return rows
    names = rows["task"].str.extract(TASK_AT_LENGTH)
    if names.notna().all(axis=None):
        return rows.assign(column=names[0], part=names[1].map(_length))
    if "bucket" in rows and rows["bucket"].notna().all():
        return rows.assign(column=rows["task"].str.removesuffix("_e"), part=rows["bucket"])
    return None


def part_cells(rows: pd.DataFrame) -> pd.DataFrame:
    """The cells of every part.

    Args:
        rows: of `split_parts`.

    Returns:
        The columns of `marked`, with `part`, which may be "all": the mean of the parts. `task` is
        the task at all lengths, "all" the mean of the tasks.
    """
    found = []
    for part, mine in rows.groupby("part"):
        mine = mine.assign(task=mine["column"])
        found.append(marked(mine, summarise(mine)).assign(part=part))
    for column, mine in rows.groupby("column"):
        mine = mine.assign(task=mine["part"])
        cells = marked(mine, summarise(mine))
        mean = cells[cells["task"] == ALL_TASKS]
        found.append(mean.assign(part=ALL_TASKS, task=column))
    mine = rows.assign(task=rows["column"] + "_" + rows["part"])
    cells = marked(mine, summarise(mine))
    found.append(cells[cells["task"] == ALL_TASKS].assign(part=ALL_TASKS))
    return pd.concat(found, ignore_index=True)


def _length(name: str) -> str:
    """A length as it is shown: 4096 tokens are 4k."""
    tokens = int(name) if name.isdigit() else 0
    return f"{tokens // 1024}k" if tokens and tokens % 1024 == 0 else name
