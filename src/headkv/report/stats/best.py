"""Which cells are the best of their KV size, and which the data cannot tell from the best."""

import pandas as pd

from headkv.report.names import variant_of
from headkv.report.stats.paired import compare
from headkv.report.stats.scored import Scored, cell_key, scored
from headkv.report.stats.significance import holm
from headkv.report.stats.summary import ALL_TASKS

BEST, NOT_WORSE = "best", "not worse"
LEVEL = 0.05
LEGEND = (
    "the best compressed method of its KV size, protocol, storage and question, and those that a "
    "paired test does not show to be worse (exact McNemar for hits and misses, else a permutation "
    "test; two-sided, Holm-corrected over the methods compared with the best, p >= 0.05)."
)
GROUP = ["kv_size", "protocol", "granularity", "compress_on", "task"]


def marked(rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Marks the best cells, and those that a test does not show to be worse.

    Methods as published are compared with one another, and so are those whose settings were chosen.

    Args:
        rows: of one benchmark and model.
        cells: of `summarise`.

    Returns:
        The cells and `mark`: "best", "not worse", or empty (worse, incomplete, the full cache, or
        nothing to compare with), `p_best`: Holm-corrected p of the test against the best, and
        `needed`: examples that would show such a difference, see `examples_needed`.
    """
    cells = cells.assign(mark="", p_best=float("nan"), needed=float("nan"))
    by_cell = scored(rows)
    whole = cells[cells["kv_size"].notna() & (cells["n"] == cells["expected"])]
    pairs: list[tuple[Scored, Scored]] = []
    counts: list[int] = []
    families: list[list[int]] = []
    variants = whole["method"].map(variant_of).rename("variant")
    for (*_, task, _), group in whole.groupby([*GROUP, variants]):
        if len(group) < 2:
            continue
        highest = group["accuracy"].max()
        best = [place for place in group.index if group.loc[place, "accuracy"] == highest]
        cells.loc[best, "mark"] = BEST
        families.append([place for place in group.index if place not in best])
        for place in families[-1]:
            both = [by_cell[cell_key(cells.loc[each])] for each in (best[0], place)]
            if task != ALL_TASKS:
                both = [each.of(str(task)) for each in both]
            pairs.append((both[0], both[1]))
            counts.append(int(group["expected"].max()))
    found = iter(compare(pairs, counts, intervals=False))
    for others in families:
        tests = [next(found) for _ in others]
        p_values = holm([test["p"] for test in tests])
        for place, p, test in zip(others, p_values, tests, strict=True):
            cells.loc[place, ["p_best", "needed"]] = p, test.get("needed", float("nan"))
            # Rows that do not share all examples with the best are not tested, and not marked.
            cells.loc[place, "mark"] = NOT_WORSE if p >= LEVEL else ""
    return cells
