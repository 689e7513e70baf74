"""Scores by length and depth, or by length and task, as heatmaps."""

import math
import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from headkv.report.figures.axes import heading, note, note_sample
from headkv.report.figures.style import COLOURS, grid_look
from headkv.report.names import method_name
from headkv.report.stats.lengths import split_parts
from headkv.report.stats.summary import VARIANT, expected_counts
from headkv.report.tables.layout import in_order

WIDE = 4  # more lengths than this, and every KV size gets a figure of its own
CROWDED = 12  # more than this, and squares are small and without numbers
MANY = 12  # more methods than this, likewise
COLUMNS, NARROW_COLUMNS = 4, 8  # panels in a line of such a figure: of many lengths, of few
TITLE_CHARS = 14  # that fit above an inch of panel
LENGTH = r"^(\d+)k$"  # of a part


def heatmaps(rows: pd.DataFrame, title: str, name: str) -> dict[str, Figure]:
    """`<name>_heatmap`, or `<name>_heatmap_<kv_size>` each; nothing without such data.

    Args:
        rows: of one benchmark and model.
        title: printed above.
        name: what the figures' names begin with.
    """
    if {"length", "depth"} <= set(rows.columns) and rows["depth"].notna().all():
        across, down = "length (tokens)", "depth in %"
        squares = rows.assign(x=rows["length"].astype(int), y=rows["depth"] * 100)
    else:
        parts = split_parts(rows)
        if parts is None:
            return {}
        lengths = parts["part"].str.extract(LENGTH)[0]
        if lengths.isna().any():
            return {}
        across, down = "length (k)", "task"
        squares = parts.assign(x=lengths.astype(int), y=parts["column"])
    sizes = sorted(int(size) for size in rows["kv_size"].dropna().unique())
    wide = squares["x"].nunique() > WIDE
    if not sizes or not (wide or squares.groupby(VARIANT).ngroups > MANY):
        return {f"{name}_heatmap": heatmap_figure(squares, title, across, down)}
    columns = COLUMNS if wide else NARROW_COLUMNS
    found = {}
    for size in sizes:
        mine = squares[squares["kv_size"].fillna(size) == size]
        figure = heatmap_figure(mine, f"{title}, KV {size}", across, down, wrap=columns)
        found[f"{name}_heatmap_{size}"] = figure
    return found


def heatmap_figure(
    squares: pd.DataFrame, title: str, across: str, down: str, wrap: int = 0
) -> Figure:
    """Mean score of each square, a panel a method and KV size.

    The full cache's panel stands beside the others at every KV size, as what to compare with.

    Args:
        squares: of one benchmark and model, with the columns `x` and `y` of their place.
        title: printed above.
        across: what `x` is.
        down: what `y` is.
        wrap: methods in a line of panels; 0: all, with a line a KV size.
    """
    x, y = (sorted(squares[name].unique()) for name in "xy")
    sizes = sorted(int(size) for size in squares["kv_size"].dropna().unique()) or [0]
    methods = in_order(squares, VARIANT)
    columns = min(wrap, len(methods)) if wrap else len(methods)
    lines = math.ceil(len(methods) / columns) if wrap else len(sizes)
    side = 0.42 if len(x) <= CROWDED else 0.12
    panel = (max(side * len(x) + 0.25, 1.2), 0.22 * len(y) + 0.45)
    size_in = (columns * panel[0] + 1.6, lines * panel[1] + 0.9)
    figure = Figure(figsize=size_in, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    expected, partial = int(expected_counts(squares).sum()), False
    panels = [(size, method) for size in sizes for method in methods]
    for axes, (size, (key, part)) in zip(grid.flat, panels, strict=False):
        cell = part[part["kv_size"].fillna(size) == size]  # <NA>, the full cache, is at home
        image = _panel(axes, cell, x, y)
        name = textwrap.fill(method_name(*key), max(8, int(TITLE_CHARS * panel[0])))
        incomplete = 0 < len(cell) < expected
        partial = partial or incomplete
        axes.set_title(f"{name}\n{len(cell)}/{expected}" if incomplete else name, fontsize=8)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for place, axes in enumerate(grid[:, 0]):
        axes.set_ylabel(down if wrap or not sizes[0] else f"KV {sizes[place]}\n{down}")
    for column in grid.T:
        last = [axes for axes in column if axes.get_visible()][-1]
        last.set_xlabel(across, fontsize=8)
        last.tick_params(labelbottom=True)
    shrink = min(0.8, 5 / size_in[1])  # a bar of 5 inches, however tall the page
    bar = figure.colorbar(image, ax=grid, shrink=shrink, aspect=30, pad=0.01)
    bar.set_label("score in %")
    bar.outline.set_visible(False)
    heading(figure, f"{title}, n = {expected}")
    if partial:
        note(figure, "Partial results: panels marked n/N show n of N examples.")
    note_sample(figure, title)
    return figure


def _panel(axes: Axes, cell: pd.DataFrame, x: list[Any], y: list[Any]) -> AxesImage:
    """One heatmap, the numbers written in its squares; a square without examples stays grey."""
    by_task = cell.groupby(["task", "y", "x"])["score"].mean()
    table = by_task.groupby(level=["y", "x"]).mean().unstack("x")
    scores = table.reindex(index=y, columns=x).to_numpy(dtype=float)
    image = axes.imshow(scores, cmap=COLOURS, vmin=0, vmax=100, aspect="auto")
    axes.set_facecolor(grid_look()["color"])
    for (row, column), score in np.ndenumerate(scores):
        if len(x) <= CROWDED and not math.isnan(score):
            colour = "black" if score > 50 else "white"
            place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7, "color": colour}
            axes.text(column, row, f"{score:.0f}", **place)
    if cell.empty:
        axes.text(0.5, 0.5, "not run", ha="center", va="center", transform=axes.transAxes)
    step = 1 if len(x) <= CROWDED else math.ceil(len(x) / 4)
    axes.set_xticks(range(0, len(x), step), [str(value) for value in x[::step]])
    labels = [value if isinstance(value, str) else f"{value:.0f}" for value in y]
    axes.set_yticks(range(len(y)), labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image
