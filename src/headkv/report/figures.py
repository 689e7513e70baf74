"""Accuracy against KV size, and depth-by-length heatmaps of the needle benchmark."""

import io
import math
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, NullLocator

from headkv.report.stats import ALL_TASKS, CELL, VARIANT, expected_counts, summarise
from headkv.report.style import (
    PLOT_STYLE,
    line_look,
    method_name,
    size_name,
    write_atomic,
)
from headkv.report.tables import by_model, in_order

# Anything that differs from run to run would make unchanged results look changed.
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
WIDE = 4  # more lengths than this, and the heatmap's methods run down the page, not across
COLOURS = "cividis"  # made for colour-blind readers, and even in grey


def write_figures(rows: pd.DataFrame, output_dir: str | Path) -> list[Path]:
    """Writes `figures/<benchmark>_<model>_{accuracy,heatmap}.{png,pdf}`.

    A heatmap needs the columns `length` and `depth`; an accuracy figure a compressed cache.

    Args:
        rows: as `load_results` gives them.
        output_dir: the results folder.

    Returns:
        The files, in the order written.
    """
    folder, written = Path(output_dir) / "figures", []
    with matplotlib.rc_context(PLOT_STYLE):
        for (benchmark, model), part in by_model(rows):
            title, name = f"{benchmark}, {model}", f"{benchmark}_{model}"
            if part["kv_size"].notna().any():
                written += _save(accuracy_figure(part, title), folder, f"{name}_accuracy")
            if {"length", "depth"} <= set(part.columns) and part["depth"].notna().all():
                written += _save(heatmap_figure(part, title), folder, f"{name}_heatmap")
    return written


def accuracy_figure(rows: pd.DataFrame, title: str) -> Figure:
    """Mean score against KV size with 95% intervals, a line a method, the full cache dashed.

    Args:
        rows: of one benchmark and model.
        title: printed above.
    """
    cells = summarise(rows)
    cells = cells[cells["task"] == ALL_TASKS]
    drawn = cells[cells["n"] == cells["expected"]]
    sizes = sorted(int(size) for size in cells["kv_size"].dropna().unique())
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    lines = in_order(drawn, VARIANT)
    sized = [key for key, part in lines if part["kv_size"].notna().any()]
    for key, part in lines:
        label, look = method_name(*key), line_look(*key)
        for full in part.loc[part["kv_size"].isna(), "accuracy"]:
            axes.axhline(full, color=look["color"], linestyle=look["linestyle"], label=label)
        part = part[part["kv_size"].notna()].sort_values("kv_size")
        if part.empty:
            continue
        # Beside one another, not on top: intervals at one x would hide each other.
        dodge = 2 ** (0.035 * (sized.index(key) - (len(sized) - 1) / 2))
        middle = part["accuracy"].to_numpy()
        # The mean of task means can lie a rounding error outside an interval of no width.
        error = np.clip([middle - part["ci_low"], part["ci_high"] - middle], 0, None)
        x = part["kv_size"].to_numpy(dtype=float) * dodge
        axes.errorbar(x, middle, yerr=error, elinewidth=0.8, capsize=1.5, label=label, **look)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set(xlabel="KV size (mean tokens a head keeps)", ylabel="accuracy in %, 95% CI")
    top = drawn["ci_high"].max() if len(drawn) else 100
    axes.set_ylim(0, min(103.0, 1.12 * top) if top > 0 else 103.0)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_title(title, loc="left")
    if lines:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=3)
    partial = cells[cells["n"] < cells["expected"]]
    if len(partial):
        named = [
            f"{method_name(*key[:3])} {size_name(key[3])} "
            f"({part['n'].item()}/{part['expected'].item()})"
            for key, part in in_order(partial, CELL)
        ]
        _note(figure, f"Partial results, left out: {', '.join(named)}.")
    return figure


def heatmap_figure(rows: pd.DataFrame, title: str) -> Figure:
    """Needle accuracy by depth and prompt length, a panel a method and KV size.

    The full cache's panel stands beside the others at every KV size, as what to compare with.

    Args:
        rows: of one benchmark and model, with the columns `length` and `depth`.
        title: printed above.
    """
    lengths, depths = (sorted(rows[name].unique()) for name in ("length", "depth"))
    sizes = sorted(int(size) for size in rows["kv_size"].dropna().unique()) or [0]
    methods = in_order(rows, VARIANT)
    across = len(lengths) <= WIDE
    shape = (len(sizes), len(methods)) if across else (len(methods), len(sizes))
    panel = (max(0.42 * len(lengths) + 0.25, 1.1), 0.22 * len(depths) + 0.45)
    size_in = (shape[1] * panel[0] + 1.6, shape[0] * panel[1] + 0.9)
    figure = Figure(figsize=size_in, layout="constrained")
    grid = figure.subplots(*shape, squeeze=False, sharex=True, sharey=True)
    expected, partial = int(expected_counts(rows).sum()), False
    for m, (key, part) in enumerate(methods):
        for s, size in enumerate(sizes):
            cell = part[part["kv_size"].fillna(size) == size]  # <NA>, the full cache, is at home
            axes = grid[s, m] if across else grid[m, s]
            image = _panel(axes, cell, lengths, depths)
            name = method_name(*key).replace(" (", "\n(")
            if not across and cell["kv_size"].notna().any():
                name += f", KV {size}"
            incomplete = 0 < len(cell) < expected
            partial = partial or incomplete
            axes.set_title(f"{name}\n{len(cell)}/{expected}" if incomplete else name)
    for axes, size in zip(grid[:, 0], sizes if across else [0] * len(methods), strict=True):
        axes.set_ylabel(f"KV {size}\ndepth in %" if size else "depth in %")
    for axes in grid[-1]:
        axes.set_xlabel("length (tokens)", fontsize=8)
    shrink = min(0.8, 5 / size_in[1])  # a bar of 5 inches, however tall the page
    bar = figure.colorbar(image, ax=grid, shrink=shrink, aspect=30, pad=0.01)
    bar.set_label("accuracy in %")
    bar.outline.set_visible(False)
    figure.suptitle(title, fontsize=10)
    if partial:
        _note(figure, "Partial results: panels marked n/N show n of N examples.")
    return figure


def _panel(axes: Axes, cell: pd.DataFrame, lengths: list[Any], depths: list[Any]) -> AxesImage:
    """One heatmap, the numbers written in its squares; a square without examples stays grey."""
    by_task = cell.groupby(["task", "depth", "length"])["score"].mean()
    table = by_task.groupby(level=["depth", "length"]).mean().unstack("length")
    scores = table.reindex(index=depths, columns=lengths).to_numpy(dtype=float)
    image = axes.imshow(scores, cmap=COLOURS, vmin=0, vmax=100, aspect="auto")
    axes.set_facecolor("#E8E8E8")
    for (y, x), score in np.ndenumerate(scores):
        if not math.isnan(score):
            colour = "black" if score > 50 else "white"
            axes.text(x, y, f"{score:.0f}", ha="center", va="center", fontsize=7, color=colour)
    if cell.empty:
        axes.text(0.5, 0.5, "not run", ha="center", va="center", transform=axes.transAxes)
    axes.set_xticks(range(len(lengths)), [f"{int(length)}" for length in lengths])
    axes.set_yticks(range(len(depths)), [f"{100 * depth:.0f}" for depth in depths])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image


def _note(figure: Figure, text: str) -> None:
    """A line or more under everything else."""
    width = int(13 * figure.get_figwidth())  # characters of this size that fit
    note = textwrap.fill(text, width)
    inch = 1 / figure.get_figheight()
    height = (0.15 * (note.count("\n") + 1) + 0.1) * inch
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, height, 1, 1 - height)))
    figure.text(0.01, 0.05 * inch, note, fontsize=8, va="bottom", color="#B00000")


def _save(figure: Figure, folder: Path, name: str) -> list[Path]:
    written = []
    for form, metadata in METADATA.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=form, metadata=metadata)
        written.append(write_atomic(folder / f"{name}.{form}", buffer.getvalue()))
    return written
