"""Score against KV size and against bytes held; a panel where the question was seen, one where not.

A single KV size makes no curve: its methods stand below one another instead.
"""

from collections.abc import Callable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from headkv.report.figures.axes import (
    ERROR_BARS,
    asked_title,
    counted,
    dodge,
    dots,
    error_bars,
    heading,
    log_ticks,
    note_partial,
    note_sample,
    side_legend,
)
from headkv.report.figures.style import grid_look, ink, line_look
from headkv.report.names import method_name, size_name
from headkv.report.stats.summary import ALL_TASKS, VARIANT, summarise
from headkv.report.tables.layout import in_order

SCORE = "score in %, 95% CI"
Draw = Callable[[Axes, pd.DataFrame], None]


def accuracy_figure(rows: pd.DataFrame, title: str, cells: pd.DataFrame | None = None) -> Figure:
    """Mean score against KV size, a line a method, the full cache dashed; bars: 95% intervals.

    Args:
        rows: of one benchmark and model.
        title: printed above.
        cells: of `summarise`, where they are known already.
    """
    cells = summarise(rows) if cells is None else cells
    sizes = sorted(int(size) for size in cells["kv_size"].dropna().unique())
    if len(sizes) == 1:
        return _score_figure(cells, f"{title}, {size_name(sizes[0])}", _dots, flat=True)

    def draw(axes: Axes, drawn: pd.DataFrame) -> None:
        lines = in_order(drawn, VARIANT)
        sized = [key for key, part in lines if part["kv_size"].notna().any()]
        for key, part in lines:
            label, look = method_name(*key[:3]), line_look(*key[:3])
            for _, full in part[part["kv_size"].isna()].iterrows():
                plain = {name: look[name] for name in ("color", "linestyle")}
                axes.axhline(full["accuracy"], label=label, **plain)
                span = full["ci_low"], full["ci_high"]
                axes.axhspan(*span, color=ink(), alpha=0.06, linewidth=0)
            part = part[part["kv_size"].notna()].sort_values("kv_size")
            if len(part):
                x = part["kv_size"].to_numpy(dtype=float) * dodge(sized.index(key), len(sized))
                _curve(axes, x, part, label, look)
        log_ticks(axes, sizes)
        axes.set_xlabel("KV size (mean tokens a head keeps)")

    return _score_figure(cells, title, draw)


def bytes_figure(rows: pd.DataFrame, title: str, cells: pd.DataFrame | None = None) -> Figure:
    """Mean score against the bytes that the cache really holds; a line a method, a mark a KV size.

    A method that stores query heads holds as many times the bytes as a KV head has queries; here
    it stands that much further right. The upper axis is in percent of the bytes of the full cache
    per KV head, mean of all complete cells (protocols may differ a little in their prompts). Lines
    are moved apart by a few percent, so that intervals of equal bytes can be told apart.

    Args:
        rows: of one benchmark and model.
        title: printed above.
        cells: of `summarise`, where they are known already.
    """
    cells = summarise(rows) if cells is None else cells

    def draw(axes: Axes, drawn: pd.DataFrame) -> None:
        lines = in_order(drawn, VARIANT)
        for place, (key, part) in enumerate(lines):
            part, look = part.sort_values("cache_mb"), line_look(*key[:3])
            for _, full in part[part["kv_size"].isna()].iterrows():
                axes.axhline(full["accuracy"], color=look["color"], linestyle="--", linewidth=0.8)
            if part["kv_size"].isna().all():
                look |= {"linestyle": "none", "marker": "*", "markersize": 9}
            shift = dodge(place, len(lines)) ** 0.5 if part["kv_size"].notna().any() else 1.0
            x = part["cache_mb"].to_numpy(dtype=float) * shift
            _curve(axes, x, part, method_name(*key[:3]), look)
        axes.set_xscale("log")
        full_mb = 1.0
        if len(drawn):
            full_mb = float((100 * drawn["cache_mb"] / drawn["cache_share"]).mean())
            held = drawn["cache_mb"]
            axes.set_xlim(held.min() / 1.3, max(held.max(), full_mb) * 1.3)
        shares = (_scaled(100 / full_mb), _scaled(full_mb / 100))
        upper = axes.secondary_xaxis("top", functions=shares)
        upper.set_xlabel("share of the full cache in %")
        for axis in (axes.xaxis, upper.xaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("bytes held by the cache right after compression (MB, log)")

    return _score_figure(cells, title, draw)


def _scaled(factor: float) -> Any:
    return lambda values: values * factor


def _score_figure(cells: pd.DataFrame, title: str, draw: Draw, flat: bool = False) -> Figure:
    """A panel for each way the question was asked; incomplete cells are named, not drawn.

    Args:
        cells: of `summarise`.
        title: printed above.
        draw: draws the complete cells of a panel.
        flat: whether scores lie along x, and methods below one another.
    """
    whole = cells[cells["task"] == ALL_TASKS]
    asked = sorted(whole["compress_on"].unique(), reverse=True)  # the usual `prompt` first
    lines = whole.groupby(VARIANT).ngroups / len(asked)
    width, height = (5.2, 0.24 * lines + 1.2) if flat else (5.1, 3.9)
    size = (width * len(asked) + 1.7, max(height, 2.0))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(asked), squeeze=False, sharey=not flat)[0]
    top = whole["ci_high"].max()
    top = min(103.0, 1.08 * top) if top > 0 else 103.0
    for axes, on in zip(panels, asked, strict=True):
        mine = whole[whole["compress_on"] == on]
        draw(axes, mine[mine["n"] == mine["expected"]])
        if len(asked) > 1:
            axes.set_title(asked_title(on), loc="left", pad=8 if flat else None)
        if flat:
            axes.set_xlim(-0.025 * top, top)  # a mark at zero stays whole
            axes.set_xlabel(SCORE)
        else:
            axes.set_ylim(-0.025 * top, top)
        axes.grid(axis="x" if flat else "y", **grid_look())
    if not flat:
        panels[0].set_ylabel(SCORE)
        side_legend(figure, panels)
    only = "" if len(asked) > 1 else f", {asked_title(asked[0])}"
    heading(figure, f"{title}{only}: {counted(cells)}", left=True)
    note_partial(figure, whole)
    note_sample(figure, title)
    return figure


def _dots(axes: Axes, drawn: pd.DataFrame) -> None:
    """The cells of one KV size below one another, the full cache as a line through them."""
    sized = drawn[drawn["kv_size"].notna()]
    full = drawn[drawn["kv_size"].isna()]
    for key, part in in_order(full, VARIANT):
        look = line_look(*key[:3])
        axes.axvline(part["accuracy"].item(), color=look["color"], linestyle=look["linestyle"])
        span = part["ci_low"].item(), part["ci_high"].item()
        axes.axvspan(*span, color=ink(), alpha=0.06, linewidth=0)
        place = (part["accuracy"].item(), 1.01)
        above: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 8}
        axes.text(*place, method_name(*key[:3]), transform=axes.get_xaxis_transform(), **above)
    dots(axes, sized, "accuracy", "ci_low", "ci_high")


def _curve(axes: Axes, x: Any, part: pd.DataFrame, label: str, look: dict[str, Any]) -> None:
    error = error_bars(part, "accuracy", "ci_low", "ci_high")
    axes.errorbar(x, part["accuracy"], yerr=error, label=label, **ERROR_BARS, **look)
