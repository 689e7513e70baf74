"""What compression does to the model's predictions, against KV size."""

import pandas as pd
from matplotlib.figure import Figure

from headkv.report.figures.axes import (
    ERROR_BARS,
    counted,
    dodge,
    error_bars,
    legend,
    log_ticks,
    note_partial,
)
from headkv.report.figures.style import GRID, line_look
from headkv.report.names import method_name
from headkv.report.stats.summary import ALL_TASKS, VARIANT
from headkv.report.tables.layout import in_order

# Axis label, and what the full cache has by definition.
PANELS = {
    "kl": ("KL from full cache\n(nats a token)", 0.0),
    "agreement": ("same likeliest token\nas full cache (%)", 100.0),
    "logprob_difference": ("log-prob of the reference,\nminus full cache (nats a token)", 0.0),
}


def fidelity_figure(cells: pd.DataFrame, title: str) -> Figure:
    """Divergence, agreement and log-probability of the reference, 95% intervals.

    The dashed line is what the full cache has by definition.

    Args:
        cells: of `fidelity_cells`, of one benchmark and model.
        title: printed above.
    """
    figure = Figure(figsize=(9.2, 3.7), layout="constrained")
    panels = figure.subplots(1, len(PANELS))
    whole = cells[cells["task"] == ALL_TASKS]
    sized = whole[whole["kv_size"].notna()]
    lines = in_order(sized[sized["n"] == sized["expected"]], VARIANT)
    for axes, (measure, (label, full)) in zip(panels, PANELS.items(), strict=True):
        axes.axhline(full, color="black", linestyle="--", linewidth=0.8)
        for place, (key, part) in enumerate(lines):
            part = part.sort_values("kv_size")
            x = part["kv_size"].to_numpy(dtype=float) * dodge(place, len(lines))
            error = error_bars(part, measure, f"{measure}_low", f"{measure}_high")
            look = {**line_look(*key), **ERROR_BARS}
            axes.errorbar(x, part[measure], yerr=error, label=method_name(*key), **look)
        log_ticks(axes, sorted(int(size) for size in sized["kv_size"].unique()))
        axes.set(xlabel="KV size", ylabel=label)
        axes.grid(axis="y", **GRID)
    legend(figure, panels[0])
    figure.suptitle(f"{title}: fidelity, {counted(cells)}, 95% CI", fontsize=10)
    note_partial(figure, sized)
    return figure
