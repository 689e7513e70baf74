"""What the figures share: how one is saved, noted, and how its lines and axes are drawn."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, NullLocator

from headkv.report.figures.style import line_look, warning_colour
from headkv.report.groups import BANNER
from headkv.report.names import QUESTION, method_name, size_name
from headkv.report.stats.summary import ALL_TASKS, CELL, VARIANT
from headkv.report.tables.layout import in_order
from headkv.storage.atomic import write_bytes

# Anything that differs from run to run would make unchanged results look changed.
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
ERROR_BARS: dict[str, Any] = {"elinewidth": 0.8, "capsize": 1.5}


def save_figure(
    figure: Figure, folder: Path, name: str, forms: Sequence[str] = ("png", "pdf")
) -> list[Path]:
    """Writes the figure as .png and .pdf, the same bytes every time.

    Args:
        figure: what to write.
        folder: where to; made if need be.
        name: of the files, without their ending.
        forms: which of the two.

    Returns:
        The files, in the order written.
    """
    written = []
    for form in forms:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=form, metadata=METADATA[form])
        written.append(write_bytes(folder / f"{name}.{form}", buffer.getvalue()))
    return written


def note(figure: Figure, text: str) -> None:
    """Writes a sentence under everything else, in as many lines as it takes.

    Args:
        figure: gets the note, and makes room for it.
        text: the sentence.
    """
    width = int(13 * figure.get_figwidth())  # characters of this size that fit
    filled = textwrap.fill(text, width)
    inch = 1 / figure.get_figheight()
    height = (0.15 * (filled.count("\n") + 1) + 0.1) * inch
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, height, 1, 1 - height)))
    figure.text(0.01, 0.05 * inch, filled, fontsize=8, va="bottom", color=warning_colour())


def note_partial(figure: Figure, cells: pd.DataFrame) -> None:
    """Names the cells that lack examples and so are not drawn; nothing where there are none.

    Args:
        figure: gets the note.
        cells: of `summarise` or alike, over all tasks.
    """
    partial = cells[cells["n"] < cells["expected"]]
    if len(partial):
        named = [
            f"{method_name(*key[:4])} {size_name(key[-1])} "
            f"({part['n'].item()}/{part['expected'].item()})"
            for key, part in in_order(partial, CELL)
        ]
        note(figure, f"Partial results, left out: {', '.join(named)}.")


def heading(figure: Figure, text: str, left: bool = False) -> None:
    """Writes the title above everything else, in as many lines as it takes.

    Args:
        figure: gets the title.
        text: one sentence.
        left: whether it stands to the left.
    """
    filled = textwrap.fill(text, int(13 * figure.get_figwidth()))
    place: dict[str, Any] = {"x": 0.01, "ha": "left", "fontsize": 9} if left else {"fontsize": 10}
    figure.suptitle(filled, **place)


def note_sample(figure: Figure, title: str) -> None:
    """Writes the warning across a figure of sample rows, as large as it is.

    Args:
        figure: gets it.
        title: of the figure, which says whether it is one.
    """
    if title.startswith(BANNER):
        look: dict[str, Any] = {"color": warning_colour(), "alpha": 0.22, "zorder": 10}
        place: dict[str, Any] = {"ha": "center", "va": "center", "rotation": 18}
        size = 2.2 * figure.get_figwidth()
        figure.text(0.45, 0.5, BANNER, fontsize=size, weight="bold", **place, **look)


def asked_title(compress_on: str) -> str:
    """What a panel's title says of the question."""
    return f"question {QUESTION.get(compress_on, compress_on)}"


def dots(axes: Axes, cells: pd.DataFrame, middle: str, low: str, high: str) -> None:
    """Cells below one another, each a mark with its interval.

    Args:
        axes: where they are drawn.
        cells: of one KV size.
        middle: the column of the means.
        low: the column of the intervals' low ends.
        high: the column of their high ends.
    """
    lines = in_order(cells, VARIANT)
    for place, (key, part) in enumerate(lines):
        look = line_look(*key[:3]) | {"linestyle": "none"}
        bars: Any = error_bars(part, middle, low, high)
        axes.errorbar(part[middle], [place], xerr=bars, **ERROR_BARS, **look)
    axes.set_yticks(range(len(lines)), [method_name(*key[:3]) for key, _ in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def counted(cells: pd.DataFrame) -> str:
    """How many examples the cells are of, and the mean of how many tasks they show."""
    tasks = cells["task"].nunique() - 1  # one is their mean
    examples = f"n = {cells.loc[cells['task'] == ALL_TASKS, 'expected'].max()}"
    return f"mean of {tasks} tasks, {examples}" if tasks > 1 else examples


def error_bars(cells: pd.DataFrame, middle: str, low: str, high: str) -> Any:
    """Lengths of error bars; a mean of task means can lie a rounding error outside its interval.

    Args:
        cells: one line a bar.
        middle: the column of the means.
        low: the column of the intervals' low ends.
        high: the column of their high ends.

    Returns:
        float `[low or high, bar]`, never negative.
    """
    ends = [cells[middle] - cells[low], cells[high] - cells[middle]]
    return np.clip(np.array(ends, dtype=float), 0, None)


def dodge(place: int, count: int) -> float:
    """Factor that puts lines of a log axis beside one another: intervals would hide each other.

    Args:
        place: of the line among the others, from 0.
        count: how many lines there are.
    """
    return float(2 ** (0.035 * (place - (count - 1) / 2)))


def log_ticks(axes: Axes, values: Sequence[int]) -> None:
    """Gives a log axis ticks at these values only; a single one stands in the middle.

    Args:
        axes: whose x axis it is.
        values: in ascending order.
    """
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(values, [str(value) for value in values])
    if len(values) == 1:
        axes.set_xlim(values[0] / 1.5, values[0] * 1.5)


def side_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Puts one legend of all panels to their right, where no note and no title stands.

    Args:
        figure: gets the legend.
        panels: whose lines are named, each name once.
    """
    named: dict[str, Any] = {}
    for axes in panels:
        lines, names = axes.get_legend_handles_labels()
        named |= {name: line for name, line in zip(names, lines, strict=True) if name not in named}
    if named:
        look: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
        panels[-1].legend(named.values(), named.keys(), handlelength=3, **look)


def legend(figure: Figure, axes: Axes) -> None:
    """Puts the legend below everything, as many names a line as fit.

    Args:
        figure: gets the legend.
        axes: whose lines are named.
    """
    lines, names = axes.get_legend_handles_labels()
    if names:
        room = int(13 * figure.get_figwidth()) // (max(map(len, names)) + 8)
        columns = min(max(room, 1), len(names))
        figure.legend(lines, names, loc="outside lower center", ncols=columns, handlelength=3)
