"""The table of benchmarks that measure each task at several lengths."""

import re

import pandas as pd

from headkv.report.groups import titled
from headkv.report.names import size_name
from headkv.report.stats.best import LEGEND
from headkv.report.stats.summary import ALL_TASKS
from headkv.report.tables.layout import (
    ASKED,
    HELD,
    INTERVAL,
    MEMORY,
    SEEN,
    asked,
    by_size,
    held,
    note,
    score,
    score_ci,
    show,
)
from headkv.report.tables.table import Table


def part_table(cells: pd.DataFrame, benchmark: str, model: str) -> Table:
    """A line a method, KV size and length, a column a task, means last.

    Args:
        cells: of `part_cells`.
        benchmark: for the caption.
        model: for the caption.
    """
    tasks = [*sorted(set(cells["task"]) - {ALL_TASKS}), ALL_TASKS]
    parts = sorted(set(cells["part"]), key=_length)
    rows: list[list[str]] = []
    bold, rules = set(), set()
    for key, mine in by_size(cells):
        rules.add(len(rows))
        for part in [part for part in parts if part in set(mine["part"])]:
            shown = {c["task"]: c for _, c in mine[mine["part"] == part].iterrows()}
            line = [*asked(key), size_name(key[-1]), *held(shown.get(ALL_TASKS)), part]
            for task in tasks:
                cell = shown.get(task)
                if cell is not None and cell["mark"]:
                    bold.add((len(rows), len(line)))
                line.append(show(cell, score_ci if task == ALL_TASKS else score))
            rows.append(line)
    each = cells[(cells["task"] != ALL_TASKS) & (cells["part"] != ALL_TASKS)]["expected"]
    sizes = sorted({int(each.min()), int(each.max())})
    title = (
        f"{titled(benchmark, model)}: score in %, length by task, "
        f"n = {' to '.join(map(str, sizes))} a task and length"
    )
    header = [*ASKED, "Cache", *MEMORY, "Length", *tasks[:-1], "mean of tasks [95% CI]"]
    told = f"Length all: the mean of the lengths. {SEEN} {INTERVAL} {HELD} {note(rows)}".strip()
    return Table(title, header, rows, told, frozenset(bold), frozenset(rules), LEGEND)


def _length(part: str) -> float:
    number = re.match(r"\d+", part)
    return float(number[0]) if number else float("inf")
