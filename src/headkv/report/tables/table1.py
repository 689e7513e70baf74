"""HeadKV's Table 1 from measured rows: six LongBench tasks, four of LooGLE, the paper's beside."""

from collections.abc import Iterator, Sequence

import pandas as pd

from headkv.report.groups import BANNER, is_sample
from headkv.report.published import LONGBENCH, LOOGLE, headkv_table1
from headkv.report.stats.best import marked
from headkv.report.stats.summary import ALL_TASKS, summarise
from headkv.report.tables.layout import Columns, counted, layout_table
from headkv.report.tables.table import Table

PARTS = (("longbench", LONGBENCH), ("loogle", LOOGLE))
PAPER = (
    "Published: Table 1 of HeadKV (arXiv 2410.19258), its whole data sets under protocol=paper; "
    "difference: measured minus published. The two compare only if n is the whole data set: "
    "200 a LongBench task (multifieldqa_en 150), LooGLE's 1,101 questions."
)


def table1_parts(parts: Sequence[pd.DataFrame]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Model -> its rows of the tasks of Table 1; nothing for a model without them.

    A sample's rows (`longbench_sample`) make a table of their own, named after it.
    """
    chosen = pd.concat([part[_wanted(part)] for part in parts])
    sample = chosen["benchmark"].str.endswith("_sample").map({True: "_sample", False: ""})
    for name, part in chosen.groupby(chosen["model"] + sample):
        yield str(name), part


def _wanted(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows are of the tasks of Table 1."""
    family = rows["benchmark"].str.removesuffix("_sample")
    wanted = [(family == name) & rows["task"].isin(tasks) for name, tasks in PARTS]
    return wanted[0] | wanted[1]


def table1(rows: pd.DataFrame, name: str) -> tuple[Table, pd.DataFrame]:
    """The table, and its numbers in long form.

    Args:
        rows: of one name of `table1_parts`.
        name: of the model.

    Returns:
        The numbers have `benchmark`, `published` and `difference` besides the columns of `marked`.
    """
    paper = headkv_table1(name)
    groups, numbers = [], []
    for benchmark, order in PARTS:
        part = rows[rows["benchmark"].str.startswith(benchmark)]
        if part.empty:
            continue
        tasks = [task for task in order if task in set(part["task"])]
        cells = marked(part, summarise(part))
        averages = {f"{benchmark}_avg": ALL_TASKS} if len(tasks) == len(order) else {}
        figures = paper.assign(task=paper["task"].replace(averages))
        groups.append(Columns(tasks, f"{benchmark} avg", cells, figures))
        beside = cells.merge(figures, how="left", on=["method", "kv_size", "task"])
        beside = beside.rename(columns={"score": "published"})
        beside.loc[beside["compress_on"] != "prompt", "published"] = float("nan")
        beside["difference"] = beside["accuracy"] - beside["published"]
        numbers.append(beside.assign(benchmark=str(part["benchmark"].iloc[0])))
    sizes = "; ".join(f"{g.average.split()[0]}: {counted(g.cells)}" for g in groups)
    banner = f"{BANNER}. " if is_sample(name) else ""
    title = f"{banner}HeadKV's Table 1, {name}"
    extra = PAPER if len(paper) else ""
    return layout_table(f"{title}: score in %, {sizes}", groups, extra), pd.concat(numbers)
