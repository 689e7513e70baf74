"""The leaderboard as tables: scores, tests against the best, and what it costs."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from headkv.report.names import budget_name, method_name, question_name
from headkv.report.stats.best import LEGEND
from headkv.report.stats.summary import VARIANT
from headkv.report.tables.layout import NOT_RUN, in_order, p_value, score_ci, show
from headkv.report.tables.table import Table

CACHE = (
    "Cache: bytes held after compression, in % of the full cache's, rounded to the nearest of 100, "
    "50, 25, 12.5 and so on; of KV sizes that round alike the nearest stands here, and all of them "
    "in leaderboard.csv. Held: that share as measured, over the benchmarks."
)
HEADER = ["Method", "Question", "Cache", "Held in %"]
Form = Callable[[pd.Series], str]


def board_tables(lines: pd.DataFrame) -> list[Table]:
    """Of each model a table of scores, of tests and of costs; a line a cell, a column a benchmark.

    Args:
        lines: of `standings`.
    """
    found = []
    for model, mine in lines.groupby("model"):
        for title, form, told in (
            ("score in % [95% CI]", score_ci, f"{CACHE} {_MEAN}"),
            ("paired test against the best of its column", _against, _TESTS),
            ("seconds an example and MB held", _cost, _COSTS),
        ):
            found.append(_table(mine, f"{model}: {title}", form, told))
    return found


def _table(lines: pd.DataFrame, title: str, form: Form, told: str) -> Table:
    benchmarks = sorted(lines["benchmark"].unique())
    # What each question was asked of: a mean is of all of it, or there is none.
    asked = lines.groupby("compress_on")["benchmark"].agg(set)
    means = form is score_ci and len(benchmarks) > 1
    rows: list[list[str]] = []
    bold = set()
    for key, mine in board_cells(lines):
        cells = {cell["benchmark"]: cell for _, cell in mine.iterrows()}
        line = [method_name(*key[:3]), question_name(key[3]), budget_name(key[-1]), _held(mine)]
        for benchmark in benchmarks:
            cell = cells.get(benchmark)
            if form is score_ci and cell is not None and cell["mark"]:
                bold.add((len(rows), len(line)))
            line.append(show(cell, form))
        if means:
            whole = set(cells) == asked[key[3]] and mine["accuracy"].notna().all()
            line.append(f"{mine['accuracy'].mean():.1f}" if whole else NOT_RUN)
        rows.append(line)
    header = [*HEADER, *benchmarks, *(["mean"] if means else [])]
    return Table(title, header, rows, told, frozenset(bold), legend=LEGEND)


def board_cells(lines: pd.DataFrame) -> list[tuple[Any, pd.DataFrame]]:
    """The lines of each method, question and share: the full cache first, then small shares first.

    Args:
        lines: of `standings`, of one model.

    Returns:
        `VARIANT` and the share, and a line a benchmark: of several KV sizes of about that share the
        one that is nearest to it.
    """
    apart = (lines["cache_share"] / lines["budget"]).map(lambda ratio: abs(math.log(ratio)))
    keys = [*VARIANT, "budget", "benchmark"]
    nearest = lines.assign(apart=apart).sort_values("apart").drop_duplicates(keys)
    groups = in_order(nearest.sort_values("benchmark"), [*VARIANT, "budget"])
    return sorted(groups, key=lambda group: -1 if pd.isna(group[0][-1]) else group[0][-1])


def _held(cells: pd.DataFrame) -> str:
    """The shares that cells hold, from the smallest to the largest."""
    shares = cells["cache_share"].dropna()
    low, high = (f"{share:.1f}" for share in (shares.min(), shares.max()))
    return NOT_RUN if shares.empty else low if low == high else f"{low} to {high}"


_MEAN = "Mean: of the scores of all benchmarks that the question was asked of in this way."
_TESTS = (
    "Best: the best of its benchmark, question, KV size, protocol and storage; else p, "
    "Holm-corrected over the methods compared with it, and in brackets how many examples would "
    "show such a difference with 80 % power."
)
_COSTS = "Seconds: prefill (an example's share of its batch), compression and decoding, mean."


def _against(cell: pd.Series) -> str:
    if cell["mark"] == "best":
        return "best"
    if pd.isna(cell["p_best"]):
        return NOT_RUN
    needed = "" if pd.isna(cell["needed"]) else f" (n {cell['needed']:,.0f})"
    return p_value(cell["p_best"]) + needed


def _cost(cell: pd.Series) -> str:
    seconds = "" if pd.isna(cell["seconds"]) else f"{cell['seconds']:.2f} s, "
    return f"{seconds}{cell['cache_mb']:.2f} MB"
