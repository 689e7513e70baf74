"""Every figure of a results folder; accuracy against KV size and against bytes held."""

from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from headkv.report.figures.axes import (
    ERROR_BARS,
    counted,
    dodge,
    error_bars,
    log_ticks,
    note_partial,
    save_figure,
)
from headkv.report.figures.efficiency import load_efficiency, write_efficiency
from headkv.report.figures.fidelity import fidelity_figure
from headkv.report.figures.heatmap import write_heatmaps
from headkv.report.figures.style import GRID, PLOT_STYLE, line_look
from headkv.report.groups import by_model
from headkv.report.names import method_name
from headkv.report.stats.fidelity import fidelity_cells
from headkv.report.stats.summary import ALL_TASKS, MB, VARIANT, summarise
from headkv.report.tables.layout import in_order

SCORE = "score in %, 95% CI"


def write_figures(rows: pd.DataFrame, output_dir: str | Path) -> list[Path]:
    """Writes `figures/<benchmark>_<model>_<what>.{png,pdf}`, whatever the rows have data for.

    `accuracy` and `bytes` need a compressed cache, `heatmap` needles with length and depth or
    tasks and lengths, `fidelity` its measures. Measurements of the efficiency
    experiment in the folder get `efficiency_<model>_latency` and `_memory`.

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
                written += save_figure(accuracy_figure(part, title), folder, f"{name}_accuracy")
                written += save_figure(bytes_figure(part, title), folder, f"{name}_bytes")
            written += write_heatmaps(part, title, folder, name)
            measured = fidelity_cells(part)
            if measured["kv_size"].notna().any():
                written += save_figure(fidelity_figure(measured, title), folder, f"{name}_fidelity")
        written += write_efficiency(load_efficiency(output_dir), folder)
    return written


def accuracy_figure(rows: pd.DataFrame, title: str) -> Figure:
    """Mean score against KV size, a line a method, the full cache dashed; bars: 95% intervals.

    Args:
        rows: of one benchmark and model.
        title: printed above.
    """
    figure, axes, cells = _score_axes(rows, title)
    sizes = sorted(int(size) for size in cells["kv_size"].dropna().unique())
    drawn = cells[cells["n"] == cells["expected"]]
    lines = in_order(drawn, VARIANT)
    sized = [key for key, part in lines if part["kv_size"].notna().any()]
    for key, part in lines:
        label, look = method_name(*key), line_look(*key)
        for _, full in part[part["kv_size"].isna()].iterrows():
            plain = {name: look[name] for name in ("color", "linestyle")}
            axes.axhline(full["accuracy"], label=label, **plain)
            axes.axhspan(full["ci_low"], full["ci_high"], color="black", alpha=0.06, linewidth=0)
        part = part[part["kv_size"].notna()].sort_values("kv_size")
        if len(part):
            x = part["kv_size"].to_numpy(dtype=float) * dodge(sized.index(key), len(sized))
            _curve(axes, x, part, label, look)
    log_ticks(axes, sizes)
    axes.set_xlabel("KV size (mean tokens a head keeps)")
    return _finished(figure, axes, cells)


def bytes_figure(rows: pd.DataFrame, title: str) -> Figure:
    """Mean score against the bytes that the cache really holds; a line a method, a mark a KV size.

    A method that stores query heads holds as many times the bytes as a KV head has queries; here
    it stands that much further right. The upper axis is in percent of the bytes of the full cache
    per KV head, mean of all complete cells (protocols may differ a little in their prompts). Lines
    are moved apart by a few percent, so that intervals of equal bytes can be told apart.

    Args:
        rows: of one benchmark and model.
        title: printed above.
    """
    figure, axes, cells = _score_axes(rows, title)
    drawn = cells[cells["n"] == cells["expected"]]
    lines = in_order(drawn, VARIANT)
    for place, (key, part) in enumerate(lines):
        part, look = part.sort_values("cache_mb"), line_look(*key)
        for _, full in part[part["kv_size"].isna()].iterrows():
            axes.axhline(full["accuracy"], color=look["color"], linestyle="--", linewidth=0.8)
        if part["kv_size"].isna().all():
            look |= {"linestyle": "none", "marker": "*", "markersize": 9}
        shift = dodge(place, len(lines)) ** 0.5 if part["kv_size"].notna().any() else 1.0
        x = part["cache_mb"].to_numpy(dtype=float) * shift
        _curve(axes, x, part, method_name(*key), look)
    axes.set_xscale("log")
    full_mb = float(rows["full_cache_bytes"].mean()) / MB
    if len(drawn):
        full_mb = float((100 * drawn["cache_mb"] / drawn["cache_share"]).mean())
        held = drawn["cache_mb"]
        axes.set_xlim(held.min() / 1.3, max(held.max(), full_mb) * 1.3)
    upper = axes.secondary_xaxis("top", functions=(_scaled(100 / full_mb), _scaled(full_mb / 100)))
    upper.set_xlabel("share of the full cache in %")
    for axis in (axes.xaxis, upper.xaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("bytes held by the cache right after compression (MB, log)")
    return _finished(figure, axes, cells)


def _scaled(factor: float) -> Any:
    return lambda values: values * factor


def _score_axes(rows: pd.DataFrame, title: str) -> tuple[Figure, Axes, pd.DataFrame]:
    cells = summarise(rows)
    figure = Figure(figsize=(6.8, 3.9), layout="constrained")
    axes = figure.subplots()
    axes.set_title(f"{title}: {counted(cells)}", loc="left")
    return figure, axes, cells[cells["task"] == ALL_TASKS]


def _curve(axes: Axes, x: Any, part: pd.DataFrame, label: str, look: dict[str, Any]) -> None:
    error = error_bars(part, "accuracy", "ci_low", "ci_high")
    axes.errorbar(x, part["accuracy"], yerr=error, label=label, **ERROR_BARS, **look)


def _finished(figure: Figure, axes: Axes, cells: pd.DataFrame) -> Figure:
    """Score axis, legend beside the data, and what is missing."""
    top = cells["ci_high"].max()
    top = min(103.0, 1.08 * top) if top > 0 else 103.0
    axes.set_ylim(-0.025 * top, top)  # a mark at zero stays whole
    axes.set_ylabel(SCORE)
    axes.grid(axis="y", **GRID)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=3)
    note_partial(figure, cells)
    return figure
