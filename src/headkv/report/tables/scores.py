"""Tables of what cells scored and held: by KV size, task by task, and the bytes."""

from collections.abc import Callable

import pandas as pd

from headkv.report.groups import titled
from headkv.report.names import size_name, variant_of
from headkv.report.stats.best import LEGEND
from headkv.report.stats.summary import ALL_TASKS, VARIANT
from headkv.report.tables.layout import (
    ASKED,
    HELD,
    INTERVAL,
    MEMORY,
    SEEN,
    Columns,
    asked,
    counted,
    held,
    in_order,
    layout_table,
    metrics,
    note,
    score_ci,
    show,
)
from headkv.report.tables.table import Table

APART = (
    "Tuned: settings chosen on the validation part, which is left out here; the best is marked "
    "among methods as published, and among those tuned alike."
)


def accuracy_table(cells: pd.DataFrame, benchmark: str, model: str) -> Table:
    """Mean score with its interval; a line a method, a column a KV size.

    Args:
        cells: of `marked`.
        benchmark: for the caption.
        model: for the caption.
    """
    tasks = cells["task"].nunique() - 1
    mean = f"mean of {tasks} tasks" if tasks > 1 else "mean"
    title = f"{titled(benchmark, model)}: score in %, {mean} [95% CI], {counted(cells)}"
    table = _grid(cells[cells["task"] == ALL_TASKS], title, score_ci)
    apart = APART if cells["method"].map(variant_of).any() else ""
    return table.under(" ".join(filter(None, (SEEN, INTERVAL, metrics(cells), apart))))


def share_table(cells: pd.DataFrame, benchmark: str, model: str) -> Table:
    """Bytes held as a share of the full cache's, and in MB; a line a method, a column a KV size.

    Args:
        cells: of `summarise`.
        benchmark: for the caption.
        model: for the caption.
    """
    title = f"{titled(benchmark, model)}: cache held, in % of the full cache (and MB of 10^6 bytes)"
    return _grid(
        cells[cells["task"] == ALL_TASKS].assign(mark=""),
        title,
        lambda cell: f"{cell['cache_share']:.1f} ({cell['cache_mb']:.2f})",
    )


def task_table(cells: pd.DataFrame, benchmark: str, model: str) -> Table:
    """Score of each task and what was held; a line a method and KV size, a column a task.

    Args:
        cells: of `marked`.
        benchmark: for the caption.
        model: for the caption.
    """
    tasks = sorted(set(cells["task"]) - {ALL_TASKS})
    if len(tasks) == 1:  # it is its own mean
        cells = cells[cells["task"] == ALL_TASKS]
    columns = Columns(
        tasks if len(tasks) > 1 else [], "mean" if len(tasks) > 1 else tasks[0], cells
    )
    what = "task by task" if len(tasks) > 1 else tasks[0]
    title = f"{titled(benchmark, model)}: score in %, {what}, with the cache held"
    return layout_table(title, [columns])


def memory_table(cells: pd.DataFrame, benchmark: str, model: str) -> Table:
    """What each cell kept, measured on the cache; a line a method and KV size.

    Args:
        cells: of `summarise`.
        benchmark: for the caption.
        model: for the caption.
    """
    whole = cells[cells["task"] == ALL_TASKS]
    rows = [
        [*asked(key), size_name(key[-1]), *held(part.iloc[0])]
        for key, part in in_order(whole, [*VARIANT, "kv_size"])
    ]
    title = f"{titled(benchmark, model)}: cache held after compression, mean of an example"
    told = f"{SEEN} {HELD} {note(rows)}".strip()
    return Table(title, [*ASKED, "Cache", *MEMORY], rows, told)


def _grid(cells: pd.DataFrame, title: str, form: Callable[[pd.Series], str]) -> Table:
    """A line a method, a column a KV size, the full cache last."""
    columns = [size_name(size) for size in sorted(cells["kv_size"].dropna().unique())]
    if cells["kv_size"].isna().any():
        columns.append(size_name(None))
    rows: list[list[str]] = []
    bold = set()
    for key, part in in_order(cells, VARIANT):
        shown = {size_name(cell["kv_size"]): cell for _, cell in part.iterrows()}
        for place, column in enumerate(columns, len(ASKED)):
            if column in shown and shown[column].get("mark", ""):
                bold.add((len(rows), place))
        rows.append([*asked(key), *[show(shown.get(column), form) for column in columns]])
    header = [*ASKED, *columns]
    return Table(title, header, rows, note(rows), frozenset(bold), legend=LEGEND)
