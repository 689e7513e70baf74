"""Figures of head scores: layer by head, distribution, stability, and the budgets they lead to."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from headkv.report.figures.axes import legend
from headkv.report.figures.style import COLOURS, KIND_LOOKS, grid_look
from headkv.report.heads.scores import STEPS, TOP, Floats, ScoreFile
from headkv.storage.head_scores import best_heads

_OTHERS: list[tuple[str, Any]] = [
    ("#009E73", (0, (1, 1))),
    ("#E69F00", "-."),
    ("#56B4E9", "--"),
    ("#7F7F7F", ":"),
    ("#000000", (0, (8, 2))),
]


def look(kind: str, place: int) -> dict[str, Any]:
    """Plot arguments of a kind's line.

    Args:
        kind: of head scores.
        place: of the line among the others, which decides how an unknown kind looks.
    """
    colour, dashes = KIND_LOOKS.get(kind, _OTHERS[place % len(_OTHERS)])
    return {"color": colour, "linestyle": dashes}


def looks(files: Sequence[ScoreFile]) -> dict[str, dict[str, Any]]:
    """Plot arguments by file name; a second file of a kind looks like none of the kinds."""
    seen: set[str] = set()
    chosen = {}
    for place, file in enumerate(files):
        chosen[file.name] = look("" if file.kind in seen else file.kind, place)
        seen.add(file.kind)
    return chosen


def heatmap_figure(file: ScoreFile, title: str) -> Figure:
    """Mean score, layer by head; the `TOP` best heads are dotted.

    Args:
        file: the scores, `[layer, query_head]`.
        title: printed above.
    """
    figure = Figure(figsize=_page(file.mean.shape), layout="constrained")
    axes = figure.subplots()
    top = float(file.mean.max())
    image = _layers(axes, file.mean, PowerNorm(0.5, vmin=0, vmax=top))
    best = best_heads(file.mean)[:TOP]
    x, y = zip(*((layer, head) for layer, head in best if file.mean[layer, head] > 0), strict=True)
    dark = ["white" if file.mean[a, b] < 0.3 * top else "black" for a, b in zip(x, y, strict=True)]
    axes.scatter(x, y, s=7, c=dark, linewidths=0)
    axes.set_ylabel("query head")
    axes.set_xlabel("layer")
    _title(figure, f"{title} (dots: {TOP} best)")
    _bar(figure, image, [axes], "mean score (colours by its root)")
    return figure


def distribution_figure(files: Sequence[ScoreFile], title: str) -> Figure:
    """How the scores are spread over the heads: by rank, and added up.

    Args:
        files: one line each.
        title: printed above.
    """
    figure = Figure(figsize=(7.2, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for file, plot in zip(files, looks(files).values(), strict=True):
        shares = np.sort(file.share.ravel())[::-1]
        rank = np.arange(1, len(shares) + 1)
        scored = shares > 0
        left.plot(rank[scored], 100 * shares[scored], label=file.name, **plot)
        right.plot(
            100 * np.arange(len(shares) + 1) / len(shares),
            100 * np.cumsum([0, *shares]),
            label=file.name,
            **plot,
        )
    left.set_yscale("log")
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    left.set(xlabel="head, best first", ylabel="share of all scores in %")
    left.set_ylim(bottom=1e-3)  # below, a head gets less than a token at KV 64
    right.plot([0, 100], [0, 100], color="#AAAAAA", linewidth=0.8, linestyle=":")
    right.set(xlabel="best heads in %", ylabel="share held in %", ylim=(0, 103), xlim=(0, 100))
    for axes in (left, right):
        axes.grid(**grid_look())
    legend(figure, left)
    _title(figure, title)
    return figure


def stability_figure(halves: pd.DataFrame, files: Sequence[ScoreFile], title: str) -> Figure:
    """Agreement of two halves by their size, with the middle 95 % of the draws.

    Args:
        halves: of `stability`, all files together.
        files: one line each, looks and order as in the other figures.
        title: printed above.
    """
    figure = Figure(figsize=(8.2, 3.2), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    names = {"pearson": "Pearson", "spearman": "Spearman", "top": f"top {TOP} shared"}
    for axes, (measure, shown) in zip(panels, names.items(), strict=True):
        for name, plot in looks(files).items():
            part = halves[halves["file"] == name]
            axes.plot(part["tests"], part[measure], label=name, marker="o", markersize=3, **plot)
            axes.fill_between(
                part["tests"],
                part[f"{measure}_low"],
                part[f"{measure}_high"],
                color=plot["color"],
                alpha=0.12,
                linewidth=0,
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(STEPS))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set(xlabel="tests in each half", title=shown)
        axes.grid(**grid_look())
    panels[0].set_ylim(min(0.0, float(halves["pearson_low"].min()) - 0.02), 1.02)
    panels[0].set_ylabel("agreement of two halves")
    legend(figure, panels[0])
    _title(figure, title)
    return figure


def budget_figure(budgets: Mapping[int, NDArray[np.int64]], title: str) -> Figure:
    """Tokens that each head keeps, a panel a KV size, one scale for all.

    Args:
        budgets: KV size -> `[layer, stored_head]`, all of one shape.
        title: printed above.
    """
    shape = next(iter(budgets.values())).shape
    width, height = _page(shape)
    figure = Figure(figsize=(width, (height - 0.8) * len(budgets) + 0.9), layout="constrained")
    panels = figure.subplots(len(budgets), 1, squeeze=False, sharex=True)[:, 0]
    low = min(int(table.min()) for table in budgets.values())
    high = max(int(table.max()) for table in budgets.values())
    scale = LogNorm(vmin=max(low, 1), vmax=max(high, low + 1, 2))
    for axes, (size, table) in zip(panels, budgets.items(), strict=True):
        image = _layers(axes, table.clip(min=1).astype(np.float64), scale)
        axes.set_ylabel("head")
        axes.set_title(f"KV {size}: {table.min():,} to {table.max():,} tokens a head", loc="left")
    panels[-1].set_xlabel("layer")
    _bar(figure, image, list(panels), "tokens kept")
    _title(figure, title)
    return figure


def _title(figure: Figure, title: str) -> None:
    """Above everything, in as many lines as it takes."""
    figure.suptitle(textwrap.fill(title, int(12 * figure.get_figwidth())), fontsize=10)


def _page(shape: tuple[int, ...]) -> tuple[float, float]:
    """Inches of a figure with one layer-by-head panel."""
    layers, heads = shape
    return max(0.17 * layers + 1.6, 4.0), max(0.17 * heads, 0.6) + 1.1


def _layers(axes: Axes, table: Floats, scale: Normalize) -> AxesImage:
    """A panel with layers across and heads down."""
    image = axes.imshow(table.T, cmap=COLOURS, norm=scale, aspect="auto", interpolation="nearest")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=2))
    axes.tick_params(length=2)
    axes.spines[:].set_visible(False)
    return image


def _bar(figure: Figure, image: AxesImage, axes: list[Axes], label: str) -> None:
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=25, shrink=min(1, 4 / len(axes)))
    bar.set_label(label, fontsize=8)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.outline.set_visible(False)
