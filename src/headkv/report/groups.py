"""Rows that compare: which may be averaged together, what they are called, what they amount to."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import pandas as pd

from headkv.report.published import LOOGLE
from headkv.report.stats.best import marked
from headkv.report.stats.fidelity import fidelity_cells
from headkv.report.stats.lengths import part_cells, split_parts
from headkv.report.stats.paired import paired_tests
from headkv.report.stats.protocols import protocol_differences
from headkv.report.stats.summary import summarise

SAMPLE = "_sample"
BANNER = "SAMPLE ROWS: scores mean nothing"


@dataclass(frozen=True, eq=False)
class Group:
    """The rows of one benchmark and model, and what they amount to, worked out once.

    Attributes:
        benchmark: as `by_model` calls it.
        model: its name.
        rows: of them.
    """

    benchmark: str
    model: str
    rows: pd.DataFrame

    @property
    def key(self) -> str:
        """What its files' names begin with."""
        return f"{self.benchmark}_{self.model}"

    @property
    def title(self) -> str:
        """What captions call it."""
        return titled(self.benchmark, self.model)

    @property
    def sample(self) -> bool:
        """Whether its rows are of the repository's few made-up examples."""
        return is_sample(self.benchmark)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """What each cell scored and kept, the best ones marked."""
        return marked(self.rows, summarise(self.rows))

    @cached_property
    def tests(self) -> pd.DataFrame:
        """The methods against each other."""
        return paired_tests(self.rows)

    @cached_property
    def changes(self) -> pd.DataFrame:
        """`paper` against `corrected`."""
        return protocol_differences(self.rows)

    @cached_property
    def fidelity(self) -> pd.DataFrame:
        """How far predictions are from the full cache's."""
        return fidelity_cells(self.rows)

    @cached_property
    def lengths(self) -> pd.DataFrame | None:
        """The cells of every part of a task; None where tasks have none."""
        parts = split_parts(self.rows)
        return None if parts is None else part_cells(parts)


Rows: TypeAlias = pd.DataFrame | Sequence[Group]
"""Rows of `load_results`, or their `grouped`: whoever writes several things of them gives this."""


def grouped(rows: Rows) -> Sequence[Group]:
    """The groups of rows, real results before samples."""
    if not isinstance(rows, pd.DataFrame):
        return rows
    groups = [Group(*names, part) for names, part in by_model(rows)]
    return sorted(groups, key=lambda group: group.sample)


def by_model(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """The rows that compare and may be averaged, with the benchmark and model to call them by.

    LongBench-E (`longbench_e`) and LooGLE's own tasks (`loogle_own`) are apart from the tasks that
    the benchmark's mean is of. Rows compressed before the question was seen
    (`compress_on=context`) are other cells of the same tables: see `VARIANT`.
    """
    bucket = rows.get("bucket", pd.Series(index=rows.index, dtype=object)).notna()
    loogle = rows["benchmark"].str.match("loogle(_sample)?$") & ~rows["task"].isin(LOOGLE)
    apart = pd.Series("", rows.index).mask(bucket, "_e").mask(loogle, "_own")
    for (benchmark, model), part in rows.groupby([rows["benchmark"] + apart, "model"]):
        yield (str(benchmark), str(model)), part


def is_sample(benchmark: str) -> bool:
    """Whether a benchmark's name says that its rows are of the repository's own few examples."""
    return benchmark.removesuffix("_e").removesuffix("_own").endswith(SAMPLE)


def titled(benchmark: str, model: str) -> str:
    """What a caption calls the rows of a benchmark and model, with the warning that samples need.

    Args:
        benchmark: of `by_model`.
        model: of `by_model`.
    """
    named = f"{benchmark}, {model}"
    return f"{BANNER}. {named}" if is_sample(benchmark) else named
