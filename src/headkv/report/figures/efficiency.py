"""Seconds and bytes of `run_efficiency.py`, against the prompt's length."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from headkv.report.figures.axes import ERROR_BARS, dodge, heading, legend, log_ticks
from headkv.report.figures.style import grid_look, line_look
from headkv.report.names import method_name
from headkv.report.stats.summary import MB, VARIANT
from headkv.report.tables.layout import in_order
from headkv.storage.lines import newest_rows

LAYOUT = "efficiency/*/*/*/*.jsonl"  # model / method / kv_size or "full" / prompt length
# Measurements that differ in one of these do not compare.
MACHINE = ["model", "device", "dtype", "threads", "weights"]
Spread = tuple[float, float, float]  # median, least, greatest


def load_efficiency(output_dir: str | Path) -> pd.DataFrame:
    """The newest measurement of every cell and length; no lines where there are none.

    Returns:
        The fields of the result file, and `model` and `method`.
    """
    rows = newest_rows(Path(output_dir), LAYOUT, "held_bytes")
    frame = pd.DataFrame(rows)
    if rows and "compress_on" not in frame:
        frame["compress_on"] = "prompt"
    return frame.astype({"kv_size": "Int64"}) if rows else frame


def efficiency_figures(rows: pd.DataFrame) -> dict[str, Figure]:
    """`efficiency_<model>_{latency,memory}`, numbered where machines differ.

    Args:
        rows: of `load_efficiency`.
    """
    found: dict[str, Figure] = {}
    if rows.empty:
        return found
    for model, mine in rows.groupby("model"):
        machines = list(mine.groupby(MACHINE, dropna=False))
        for place, (machine, part) in enumerate(machines, 1):
            name = f"efficiency_{model}" + (f"_{place}" if len(machines) > 1 else "")
            title = _title(machine, part)
            found[f"{name}_latency"] = latency_figure(part, title)
            found[f"{name}_memory"] = memory_figure(part, title)
    return found


def latency_figure(rows: pd.DataFrame, title: str) -> Figure:
    """Time to the first token, for one more, and in total; bars: least and greatest repeat.

    Args:
        rows: of one machine.
        title: printed above.
    """
    longest = min(max(map(int, seconds["total"])) for seconds in rows["seconds"])
    return _figure(
        rows,
        f"latency, {title}",
        {
            "time to first token (s)": lambda row: _spread(row["seconds"]["first_token"]),
            "time a token (ms)": lambda row: _spread(row["seconds"]["token"], 1000),
            f"total to {longest} tokens (s)": lambda row: _spread(
                row["seconds"]["total"][str(longest)]
            ),
        },
    )


def memory_figure(rows: pd.DataFrame, title: str) -> Figure:
    """Bytes held after prefill, and the most that tensors took at once, without the weights.

    Args:
        rows: of one machine.
        title: printed above.
    """
    return _figure(
        rows,
        f"memory, {title}",
        {
            "held after prefill (MB)": lambda row: (row["held_bytes"]["after_prefill"] / MB,) * 3,
            "peak without weights (MB)": lambda row: (row["peak_bytes"] / MB,) * 3,
        },
    )


def _figure(rows: pd.DataFrame, title: str, panels: dict[str, Callable[[Any], Spread]]) -> Figure:
    """A panel a measure, a line of panels a KV size; what has no size stands in each."""
    sizes = sorted(int(size) for size in rows["kv_size"].dropna().unique()) or [0]
    figure = Figure(figsize=(3.0 * len(panels) + 0.4, 2.5 * len(sizes) + 1.2), layout="constrained")
    grid = figure.subplots(len(sizes), len(panels), squeeze=False, sharex=True, sharey="col")
    lengths = sorted(int(length) for length in rows["prompt_tokens"].unique())
    for size, line in zip(sizes, grid, strict=True):
        mine = rows[rows["kv_size"].fillna(size) == size]
        for axes, (label, measure) in zip(line, panels.items(), strict=True):
            lines = in_order(mine, VARIANT)
            for place, (key, part) in enumerate(lines):
                part = part.sort_values("prompt_tokens")
                middle, low, high = np.array([measure(row) for _, row in part.iterrows()]).T
                look = line_look(*key[:3]) | ERROR_BARS
                # Methods of one size hold the same; beside one another all are seen.
                x = part["prompt_tokens"].to_numpy(dtype=float) * dodge(place, len(lines))
                axes.errorbar(
                    x,
                    middle,
                    yerr=[middle - low, high - middle],
                    label=method_name(*key[:3]),
                    **look,
                )
            log_ticks(axes, lengths)
            axes.set_ylabel(label)
            axes.grid(axis="y", **grid_look())
        line[0].set_title(f"KV {size}" if size else "", loc="left")
    for axes in grid[-1]:  # columns share their scale
        axes.set_xlabel("prompt (tokens)")
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    legend(figure, grid[0, 0])
    heading(figure, title)
    return figure


def _spread(seconds: dict[str, float], scale: float = 1.0) -> Spread:
    return scale * seconds["median"], scale * seconds["min"], scale * seconds["max"]


def _title(machine: tuple[Any, ...], rows: pd.DataFrame) -> str:
    model, device, dtype, threads, weights = machine
    where = f"{device}, {threads} thread{'s' if threads > 1 else ''}, {dtype}"
    repeats = sorted(set(rows["repeats"]))
    runs = f"median of {'/'.join(map(str, repeats))}" if max(repeats) > 1 else "one run"
    random = "" if weights == "own" else f", {weights} weights"
    return f"{model}{random}: {where}, {runs}"
