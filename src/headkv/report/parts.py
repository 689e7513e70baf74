"""Tables of benchmarks that measure each task at several lengths: BABILong and LongBench-E."""

import re

import pandas as pd

from headkv.report.layout import HELD, INTERVAL, MEMORY, by_size, held, note, score, score_ci, show
from headkv.report.marked import MarkedTable
from headkv.report.marks import LEGEND, marked
from headkv.report.stats import ALL_TASKS, summarise
from headkv.report.style import method_name, size_name

_BABILONG = r"(qa\d+)_(\d+k)"


def split_parts(rows: pd.DataFrame) -> pd.DataFrame | None:
    """The rows with `column` (a task at all lengths) and `part` (a length or a bucket of lengths).

    Returns:
        None for benchmarks without such parts.
    """
    names = rows["task"].str.extract(f"^{_BABILONG}$")
    if names.notna().all(axis=None):
        return rows.assign(column=names[0], part=names[1])
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


def part_table(cells: pd.DataFrame, benchmark: str, model: str) -> MarkedTable:
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
            line = [method_name(*key[:3]), size_name(key[3]), *held(shown.get(ALL_TASKS)), part]
            for task in tasks:
                cell = shown.get(task)
                if cell is not None and cell["mark"]:
                    bold.add((len(rows), len(line)))
                line.append(show(cell, score_ci if task == ALL_TASKS else score))
            rows.append(line)
    each = cells[(cells["task"] != ALL_TASKS) & (cells["part"] != ALL_TASKS)]["expected"]
    sizes = sorted({int(each.min()), int(each.max())})
    title = (
        f"{benchmark}, {model}: score in %, length by task, "
        f"n = {' to '.join(map(str, sizes))} a task and length"
    )
    header = ["Method", "Cache", *MEMORY, "Length", *tasks[:-1], "mean of tasks [95% CI]"]
    told = f"Length all: the mean of the lengths. {INTERVAL} {HELD} {note(rows)}".strip()
    return MarkedTable(title, header, rows, told, frozenset(bold), frozenset(rules), LEGEND)


def _length(part: str) -> float:
    number = re.match(r"\d+", part)
    return float(number[0]) if number else float("inf")
