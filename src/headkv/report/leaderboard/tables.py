"""The leaderboard as tables: scores, tests against the best, and what it costs."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from headkv.report.names import method_name, question_name, size_name
from headkv.report.stats.best import LEGEND
from headkv.report.stats.summary import CELL
from headkv.report.tables.layout import NOT_RUN, in_order, p_value, score_ci, show
from headkv.report.tables.table import Table

CACHE = "Share: bytes held after compression, in % of the full cache's, mean of the benchmarks."
HEADER = ["Method", "Question", "Cache", "Share"]
Form = Callable[[pd.Series], str]


def board_tables(lines: pd.DataFrame) -> list[Table]:
    """Of each model a table of scores, of tests and of costs; a line a cell, a column a benchmark.

    Args:
        lines: of `standings`.
    """
    found = []
    for model, mine in lines.groupby("model"):
        for title, form, told in (
            ("score in % [95% CI]", score_ci, f"{CACHE} Mean: of the benchmarks' scores."),
            ("paired test against the best of its column", _against, _TESTS),
            ("seconds an example and MB held", _cost, _COSTS),
        ):
            found.append(_table(mine, f"{model}: {title}", form, told))
    return found


def _table(lines: pd.DataFrame, title: str, form: Form, told: str) -> Table:
    benchmarks = sorted(lines["benchmark"].unique())
    scores = form is score_ci
    rows: list[list[str]] = []
    bold = set()
    for key, mine in board_cells(lines):
        cells = {cell["benchmark"]: cell for _, cell in mine.iterrows()}
        share = mine["cache_share"].mean()
        line = [method_name(*key[:3]), question_name(key[3]), size_name(key[-1])]
        line.append(NOT_RUN if pd.isna(share) else f"{share:.1f}")
        for benchmark in benchmarks:
            cell = cells.get(benchmark)
            if scores and cell is not None and cell["mark"]:
                bold.add((len(rows), len(line)))
            line.append(show(cell, form))
        if scores and len(benchmarks) > 1:
            whole = len(cells) == len(benchmarks) and mine["accuracy"].notna().all()
            line.append(f"{mine['accuracy'].mean():.1f}" if whole else NOT_RUN)
        rows.append(line)
    header = [*HEADER, *benchmarks, *(["mean"] if scores and len(benchmarks) > 1 else [])]
    return Table(title, header, rows, told, frozenset(bold), legend=LEGEND)


def board_cells(lines: pd.DataFrame) -> list[tuple[Any, pd.DataFrame]]:
    """The lines of each cell: the full cache first, then by KV size, methods in display order."""
    groups = in_order(lines, CELL)
    return sorted(groups, key=lambda group: -1 if pd.isna(group[0][-1]) else group[0][-1])


_TESTS = (
    "Best: the best of its benchmark, question, KV size, protocol and storage; else p, "
    "Holm-corrected over the methods compared with it."
)
_COSTS = "Seconds: prefill (an example's share of its batch), compression and decoding, mean."


def _against(cell: pd.Series) -> str:
    if cell["mark"] == "best":
        return "best"
    return NOT_RUN if pd.isna(cell["p_best"]) else p_value(cell["p_best"])


def _cost(cell: pd.Series) -> str:
    seconds = "" if pd.isna(cell["seconds"]) else f"{cell['seconds']:.2f} s, "
    return f"{seconds}{cell['cache_mb']:.2f} MB"
