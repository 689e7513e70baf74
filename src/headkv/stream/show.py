"""Table and figure of perplexity under a bounded cache."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from headkv.report.figures.axes import save_figure
from headkv.report.figures.style import PLOT_STYLE, grid_look, line_look
from headkv.report.names import method_name, method_order, size_name
from headkv.report.tables.table import Table
from headkv.storage.atomic import write_bytes
from headkv.storage.lines import newest_rows

LAYOUT = "stream/*/*/*/*.jsonl"  # model / method / kv_size or "full" / essays


def load_stream(output_dir: Path) -> pd.DataFrame:
    """The newest row of every text and cell.

    Args:
        output_dir: a results folder.
    """
    rows = newest_rows(output_dir, LAYOUT, "perplexity")
    frame = pd.DataFrame(rows)
    return frame.astype({"kv_size": "Int64"}) if rows else frame


def cells(frame: pd.DataFrame) -> pd.DataFrame:
    """One line a cell: mean loss over its texts, and what it held."""
    held = pd.json_normalize(frame["decoding"].tolist()).set_index(frame.index)
    joined = pd.concat([frame.drop(columns="decoding"), held], axis=1)
    keys = ["model", "method", "protocol", "granularity", "kv_size"]
    found = joined.groupby(keys, dropna=False, as_index=False).agg(
        loss=("loss", "mean"),
        texts=("id", "count"),
        mean_entries=("mean_entries", "mean"),
        peak_bytes=("peak_bytes", "max"),
    )
    found["perplexity"] = np.exp(found["loss"])
    order = found["method"].map(method_order)
    return found.assign(_order=order).sort_values(["model", "_order", "kv_size"])


def table(frame: pd.DataFrame, folder: Path) -> str:
    """Writes `stream.{md,tex}`; returns the table for a terminal."""
    rows = [
        [
            method_name(row["method"], row["protocol"], row["granularity"]),
            size_name(row["kv_size"]),
            f"{row['perplexity']:.2f}",
            f"{row['mean_entries']:,.0f}",
            f"{row['peak_bytes'] / 1e6:.2f}",
            str(row["texts"]),
        ]
        for row in cells(frame).to_dict("records")
    ]
    header = ["method", "cut to", "perplexity", "mean entries", "peak MB", "texts"]
    note = "Entries and bytes are counted on the cache, tail and positions included."
    shown = Table("Perplexity of essays under a bounded cache", header, rows, note)
    write_bytes(folder / "stream.md", shown.to_markdown().encode())
    write_bytes(folder / "stream.tex", shown.to_latex().encode())
    return shown.to_text()


def save_figures(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Writes `stream_<model>.{png,pdf}`: perplexity by bytes held, and along the text."""
    written: list[Path] = []
    for model, rows in frame.groupby("model"):
        with rc_context(PLOT_STYLE):
            written += save_figure(_figure(str(model), rows), folder, f"stream_{model}")
    return written


def _figure(model: str, rows: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    summary = cells(rows)
    smallest = summary["kv_size"].min()
    for method, line in summary.groupby("method", sort=False):
        look = line_look(str(method), "corrected", "kv_head")
        full = line["kv_size"].isna().all()
        if full:
            left.axhline(float(line["perplexity"].iloc[0]), label=method_name(str(method)), **look)
        else:
            sizes = line["kv_size"].astype(float)
            left.plot(sizes, line["perplexity"], label=method_name(str(method)), **look)
        size = rows["kv_size"].isna() if full else rows["kv_size"] == smallest
        some = rows[(rows["method"] == method) & size]
        shortest = min(map(len, some["losses"]))
        along = np.mean([each[:shortest] for each in some["losses"]], axis=0)
        start = int(some["prefilled"].iloc[0])
        right.plot(start + 256 * (np.arange(shortest) + 0.5), np.exp(along), **look)
    left.set_xscale("log", base=2)
    sizes = sorted(int(size) for size in summary["kv_size"].dropna().unique())
    left.set_xticks(sizes, [f"{size:,}" for size in sizes])
    left.set_xlabel("entries a head is cut to")
    left.set_ylabel("perplexity")
    right.set_xlabel("token of the text")
    right.set_title(f"cut to {smallest}")
    for axes in (left, right):
        axes.grid(**grid_look())
    left.legend()
    figure.suptitle(f"perplexity of essays, {model}", fontsize=9)
    return figure
