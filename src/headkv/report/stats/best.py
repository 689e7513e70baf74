"""Which cells are the best of their KV size, and which the data cannot tell from the best."""

import pandas as pd

from headkv.report.stats.paired import compare
from headkv.report.stats.significance import holm
from headkv.report.stats.summary import ALL_TASKS, CELL

BEST, NOT_WORSE = "best", "not worse"
LEVEL = 0.05
LEGEND = (
    "the best compressed method of its KV size, protocol and storage, and those that a paired test "
    "does not show to be worse (exact McNemar for hits and misses, else a permutation test; "
    "two-sided, Holm-corrected over the methods compared with the best, p >= 0.05)."
)
GROUP = ["kv_size", "protocol", "granularity", "task"]


def marked(rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Marks the best cells, and those that a test does not show to be worse.

    Args:
        rows: of one benchmark and model.
        cells: of `summarise`.

    Returns:
        The cells and `mark`: "best", "not worse", or empty (worse, incomplete, the full cache, or
        nothing to compare with), and `p_best`: Holm-corrected p of the test against the best.
    """
    cells = cells.assign(mark="", p_best=float("nan"))
    by_cell = dict(list(rows[rows["kv_size"].notna()].groupby(CELL)))
    whole = cells[cells["kv_size"].notna() & (cells["n"] == cells["expected"])]
    for (*_, task), group in whole.groupby(GROUP):
        if len(group) < 2:
            continue
        shown = {
            place: part if task == ALL_TASKS else part[part["task"] == task]
            for place, part in ((i, by_cell[tuple(cell[CELL])]) for i, cell in group.iterrows())
        }
        highest = group["accuracy"].max()
        best = [place for place in group.index if group.loc[place, "accuracy"] == highest]
        others = [place for place in group.index if place not in best]
        expected = int(group["expected"].max())
        p_values = [compare(shown[best[0]], shown[i], expected)["p"] for i in others]
        cells.loc[best, "mark"] = BEST
        for place, p in zip(others, holm(p_values), strict=True):
            cells.loc[place, "p_best"] = p
            # Rows that do not share all examples with the best are not tested, and not marked.
            cells.loc[place, "mark"] = NOT_WORSE if p >= LEVEL else ""
    return cells
