"""How cells become lines of a table: their order, what stands in them, what stands below."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from headkv.report.names import method_name, method_order, question_name, size_name
from headkv.report.stats.best import LEGEND
from headkv.report.stats.summary import ALL_TASKS, VARIANT
from headkv.report.tables.table import Table

NOT_RUN = "-"
INCOMPLETE = "n/N: only n of N examples are there, so no number is given."
HELD = (
    "Kept tokens: entries held right after compression, summed over layers and stored heads, mean "
    "of an example; 1 MB is 10^6 bytes; % of full: of the bytes of the uncompressed cache."
)
INTERVAL = (
    "[95% CI]: bootstrap over examples; exact binomial where all scores of each task are equal."
)
ASKED = ["Method", "Question"]  # the first columns of a table of cells
SEEN = "Question: whether it was there when the prompt was compressed."
FEW = 3  # tasks up to which their intervals stand beside them
MEMORY = ["Kept tokens", "MB", "% of full"]


@dataclass(frozen=True)
class Columns:
    """Tasks that have an average of their own.

    Attributes:
        tasks: in the order shown.
        average: the head of their average's column.
        cells: of `marked`, of these tasks only.
        published: `method`, `kv_size`, `task` ("all": the average), `score` of a paper.
    """

    tasks: Sequence[str]
    average: str
    cells: pd.DataFrame
    published: pd.DataFrame | None = None


def in_order(cells: pd.DataFrame, keys: list[str]) -> list[tuple[Any, pd.DataFrame]]:
    """Groups by method in display order, then question, protocol, granularity and KV size.

    Args:
        cells: lines with the columns of `keys`.
        keys: `VARIANT`, or `CELL`.

    Returns:
        Each group's key and lines.
    """
    groups = list(cells.groupby(keys, dropna=False))
    return sorted(groups, key=lambda group: _order(group[0]))


def by_size(cells: pd.DataFrame) -> list[tuple[Any, pd.DataFrame]]:
    """Groups by KV size, the full cache first, within it by method in display order."""
    groups = in_order(cells, [*VARIANT, "kv_size"])
    return sorted(groups, key=lambda group: -1 if pd.isna(group[0][-1]) else group[0][-1])


def asked(key: Any) -> list[str]:
    """The cells of the columns `ASKED` for a key that begins with `VARIANT`."""
    return [method_name(*key[:3]), question_name(key[3])]


def _order(key: Any) -> tuple[Any, ...]:
    setting = (key[3] != "prompt", key[1] != "corrected", key[2] != "kv_head")
    return (*method_order(key[0]), *setting, *(-1 if pd.isna(k) else k for k in key[4:]))


def show(cell: pd.Series | None, form: Callable[[pd.Series], str]) -> str:
    """A whole cell in its form; of another how much there is (`25/40`); `-` where there is none.

    Args:
        cell: a line of `summarise` or alike.
        form: gives a whole cell's text.
    """
    if cell is None:
        return NOT_RUN
    if cell["n"] == cell["expected"]:
        return form(cell)
    failed = f" ({cell['failed']} failed)" if cell.get("failed", 0) else ""
    return f"{cell['n']}/{cell['expected']}{failed}"


def score(cell: pd.Series) -> str:
    """A mean of scores in percent, with one decimal."""
    return f"{cell['accuracy']:.1f}"


def score_ci(cell: pd.Series) -> str:
    """A mean with its interval."""
    return f"{cell['accuracy']:.1f} {interval(cell)}".rstrip()


def interval(cell: pd.Series) -> str:
    """A mean's interval; nothing where a single example has none."""
    return "" if pd.isna(cell["ci_low"]) else f"[{cell['ci_low']:.1f}, {cell['ci_high']:.1f}]"


def held(cell: pd.Series | None) -> list[str]:
    """Kept tokens, MB and share of the full cache as text, in the order of the header `MEMORY`."""
    return [
        show(cell, lambda cell: f"{cell['kept_tokens']:,.0f}"),
        show(cell, lambda cell: f"{cell['cache_mb']:.2f}"),
        show(cell, lambda cell: f"{cell['cache_share']:.1f}"),
    ]


def p_value(value: float) -> str:
    """A p value as it is printed."""
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"


def note(rows: Iterable[list[str]]) -> str:
    """What has to be said below these rows."""
    return INCOMPLETE if any("/" in text for row in rows for text in row[1:]) else ""


def counted(cells: pd.DataFrame) -> str:
    """How many examples: of all tasks together, or of each where there are several."""
    tasks = cells[cells["task"] != ALL_TASKS].groupby("task")["expected"].max()
    sizes = sorted(set(tasks))
    if len(tasks) == 1:
        return f"n = {sizes[0]}"
    each = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return f"n = {tasks.sum()}, {each} a task"


def metrics(cells: pd.DataFrame) -> str:
    """Which score each task has."""
    named = cells[(cells["task"] != ALL_TASKS) & (cells["metric"] != "")]
    found = named.groupby("metric")["task"].unique()
    if len(found) <= 1:
        return f"Score: {found.index[0]}, 0 to 100." if len(found) else ""
    parts = [f"{name} ({', '.join(sorted(tasks))})" for name, tasks in found.items()]
    return f"Scores, 0 to 100: {'; '.join(parts)}."


def layout_table(title: str, groups: Sequence[Columns], extra: str = "") -> Table:
    """The layout of HeadKV's Table 1: methods by tasks, grouped by KV size, averages last.

    Args:
        title: the caption's beginning.
        groups: of tasks; what a line held is that of the first group that has it.
        extra: a sentence for the note.
    """
    header = [*ASKED, "Cache", *MEMORY]
    for group in groups:
        header += [*group.tasks, f"{group.average} [95% CI]"]
    together = pd.concat([group.cells for group in groups])
    rows: list[list[str]] = []
    bold, rules, size = set(), set(), None
    for key, _ in by_size(together):
        if size != size_name(key[-1]):
            size = size_name(key[-1])
            rules.add(len(rows))
        found = [_of(group.cells, VARIANT, key) for group in groups]
        means = [part[part["task"] == ALL_TASKS] for part in found]
        memory = next((mean.iloc[0] for mean in means if len(mean)), None)
        lines = [[*asked(key), size, *held(memory)]]
        lines += [[what, *[""] * (2 + len(MEMORY))] for what in ("published", "difference")]
        for group, part in zip(groups, found, strict=True):
            cells = {cell["task"]: cell for _, cell in part.iterrows()}
            printed = _published(group, key)
            for task in [*group.tasks, ALL_TASKS]:
                cell, figure = cells.get(task), printed.get(task)
                if cell is not None and cell.get("mark"):
                    bold.add((len(rows), len(lines[0])))
                ci = len(group.tasks) <= FEW or task == ALL_TASKS
                lines[0].append(show(cell, score_ci if ci else score))
                whole = cell is not None and cell["n"] == cell["expected"]
                lines[1].append("" if figure is None else f"{figure:.2f}")
                lines[2].append(
                    f"{cell['accuracy'] - figure:+.2f}"
                    if cell is not None and whole and figure is not None
                    else ""
                )
        rows += lines if any(lines[1][1:]) else lines[:1]
    told = " ".join(filter(None, [SEEN, INTERVAL, HELD, metrics(together), extra, note(rows)]))
    return Table(title, header, rows, told, frozenset(bold), frozenset(rules), LEGEND)


def _of(table: pd.DataFrame, names: list[str], key: Any) -> pd.DataFrame:
    """The lines of a method and size; `key` begins with the values of `names`, size last."""
    size = table["kv_size"].isna() if pd.isna(key[-1]) else table["kv_size"].eq(key[-1])
    same = size.fillna(False).astype(bool)
    for name, value in zip(names, key, strict=False):
        same &= table[name] == value
    return table[same]


def _published(group: Columns, key: Any) -> dict[str, float]:
    if group.published is None or key[3] != "prompt":  # papers see the question
        return {}
    mine = _of(group.published, ["method"], key)
    return dict(zip(mine["task"], mine["score"], strict=True))
