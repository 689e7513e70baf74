"""Rows that compare: which may be averaged together, and what they are called."""

from collections.abc import Iterator

import pandas as pd

from headkv.report.published import LOOGLE

CONTEXT = "@context"


def by_model(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """The rows that compare and may be averaged, with the benchmark and model to call them by.

    LongBench-E (`longbench_e`) and LooGLE's own tasks (`loogle_own`) are apart from the tasks that
    the benchmark's mean is of. Rows compressed before the question was seen
    (`compress_on=context`) are another experiment: their model is called `<model>@context`.
    """
    bucket = rows.get("bucket", pd.Series(index=rows.index, dtype=object)).notna()
    loogle = rows["benchmark"].str.match("loogle(_sample)?$") & ~rows["task"].isin(LOOGLE)
    apart = pd.Series("", rows.index).mask(bucket, "_e").mask(loogle, "_own")
    context = rows["compress_on"].map({"context": CONTEXT}).fillna("")
    keys = [rows["benchmark"] + apart, rows["model"] + context]
    for (benchmark, model), part in rows.groupby(keys):
        yield (str(benchmark), str(model)), part


def titled(benchmark: str, model: str) -> str:
    """What a caption calls the rows of a benchmark and model.

    Args:
        benchmark: of `by_model`.
        model: of `by_model`, so it may end in `@context`.
    """
    named = f"{benchmark}, {model.removesuffix(CONTEXT)}"
    asked = " (compressed before the question was seen)" if model.endswith(CONTEXT) else ""
    return named + asked
