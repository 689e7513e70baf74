"""How much a method depends on its settings: score and divergence by pooling width and window.

Of the trials that settings were chosen from (`<output_dir>/tuning`), on the validation part.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from headkv.report.figures.axes import heading, log_ticks, note_sample
from headkv.report.figures.style import grid_look, ink, line_look
from headkv.report.groups import titled
from headkv.report.names import method_name, method_order, size_name
from headkv.storage.tuned import ALL, read_tuned, tuned_files

AXES = {"kernel_size": "pooling width (tokens)", "window_size": "window (tokens)"}
MEASURES = {"score": "score in %", "kl": "KL from full cache\n(nats a token)"}
POOLINGS = {"avg": "-", "max": ":"}


def sensitivity_figures(output_dir: str | Path) -> dict[str, Figure]:
    """`<benchmark>_<model>_sensitivity` by name, of every benchmark that settings were chosen on.

    Args:
        output_dir: the results folder.
    """
    found = {}
    for path in tuned_files(Path(output_dir)):
        benchmark, model = path.parts[-3:-1]
        trials = trials_of(read_tuned(path)) if benchmark != ALL else pd.DataFrame()
        for unseen, part in trials.groupby("unseen") if len(trials) else ():
            name = f"{benchmark}_{model}_sensitivity" + ("_unseen" if unseen else "")
            title = titled(benchmark, model) + (", question not seen" if unseen else "")
            found[name] = sensitivity_figure(part, title)
    return found


def trials_of(entries: Mapping[str, Any]) -> pd.DataFrame:
    """Every trial of a file of choices, a line each.

    Args:
        entries: of `read_tuned`.

    Returns:
        `method`, `protocol`, `granularity`, `kv_size`, `unseen` (whether the question was there
        when the prompt was compressed), `n`, `published`, `score`, `kl`, and `kernel_size`,
        `window_size`, `pooling` of the scorer or of the one that it works over.
    """
    lines = []
    for entry in entries.values():
        for place, trial in enumerate(entry["tried"]):
            own = {
                path.rpartition(".")[2]: value
                for path, value in trial["parameters"].items()
                if path.startswith("scorer.")
            }
            lines.append(
                {name: entry[name] for name in ("method", "protocol", "granularity", "kv_size")}
                | {name: own.get(name) for name in (*AXES, "pooling")}
                | {
                    "unseen": "not seen" in entry["families"][0],
                    "n": sum(entry["examples"].values()),
                    "published": place == 0,
                    "score": trial["score"],
                    "kl": trial["kl"],
                }
            )
    return pd.DataFrame(lines)


def sensitivity_figure(trials: pd.DataFrame, title: str) -> Figure:
    """A line a method and way of pooling: the mean of all trials that have a value in common.

    Trials of a value differ in everything else, so a line is what the setting does on average, not
    alone; the published settings are marked by a ring.

    Args:
        trials: of `trials_of`, of one benchmark and model.
        title: printed above.
    """
    sizes = sorted(trials["kv_size"].unique())
    shown = [name for name in AXES if trials[name].notna().any()]
    panels = [(measure, name) for measure in MEASURES for name in shown]
    figure = Figure(figsize=(2.9 * len(panels) + 1.5, 2.6 * len(sizes) + 0.6), layout="constrained")
    grid = figure.subplots(len(sizes), max(len(panels), 1), squeeze=False, sharex="col")
    for row, size in zip(grid, sizes, strict=True):
        mine = trials[trials["kv_size"] == size]
        for axes, (measure, name) in zip(row, panels, strict=True):
            _panel(axes, mine, measure, name)
            axes.set_title(size_name(size), loc="left")
    for axes, (_, name) in zip(grid[-1], panels, strict=True):
        axes.set_xlabel(AXES[name])
    _legend(grid[0][-1], trials)
    told = "on the validation part; mean of the trials with a value; ring: published settings"
    heading(figure, f"{title}: sensitivity to settings, n = {trials['n'].max()}, {told}")
    note_sample(figure, title)
    return figure


def _panel(axes: Axes, trials: pd.DataFrame, measure: str, name: str) -> None:
    drawn = trials[trials[name].notna() & trials[measure].notna()]
    by = ["method", "protocol", "granularity"]
    for key, part in drawn.groupby(by):
        look = line_look(*key)
        apart = part["pooling"].fillna("") if name == "kernel_size" else pd.Series("", part.index)
        for pooling, same in part.groupby(apart):
            means = same.groupby(name)[measure].mean()
            style = POOLINGS.get(str(pooling), look["linestyle"])
            plain: Any = {**look, "linestyle": style, "markersize": 3}
            axes.plot(means.index.astype(int), means, **plain)
        own = part[part["published"]]
        ring: Any = {"s": 70, "facecolors": "none", "edgecolors": look["color"], "zorder": 3}
        axes.scatter(own[name].astype(int), own[measure], **ring)
    log_ticks(axes, sorted({int(value) for value in drawn[name]}) or [1])
    axes.set_ylabel(MEASURES[measure])
    if measure == "score":
        axes.set_ylim(-3, 103)
    else:
        axes.set_ylim(bottom=0)
    axes.grid(axis="y", **grid_look())


def _legend(axes: Axes, trials: pd.DataFrame) -> None:
    """The methods, and what a dotted line is."""
    keys: Sequence[Any] = list(trials.groupby(["method", "protocol", "granularity"]).groups)
    lines = {
        method_name(*key): Line2D([], [], **line_look(*key))
        for key in sorted(keys, key=lambda key: method_order(key[0]))
    }
    if trials["pooling"].notna().any():
        for pooling, style in POOLINGS.items():
            lines[f"{pooling} pooling"] = Line2D([], [], color=ink(), linestyle=style)
    look: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
    axes.legend(lines.values(), lines.keys(), handlelength=3, **look)
