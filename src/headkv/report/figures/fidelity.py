"""What compression does to the model's predictions, against KV size."""

import pandas as pd
from matplotlib.figure import Figure

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

    The dashed line is what the full cache has by definition. A line of panels for each way the
    question was asked; a single KV size is drawn as dots.

    Args:
        cells: of `fidelity_cells`, of one benchmark and model.
        title: printed above.
    """
    whole = cells[cells["task"] == ALL_TASKS]
    sized = whole[whole["kv_size"].notna()]
    asked = sorted(sized["compress_on"].unique(), reverse=True)
    sizes = sorted(int(size) for size in sized["kv_size"].unique())
    flat = len(sizes) == 1
    most = sized.groupby(VARIANT).ngroups / len(asked)
    height = max(2.0, 0.24 * most + 1.0) if flat else 3.4
    figure = Figure(figsize=(10.8, height * len(asked) + 0.3), layout="constrained")
    grid = figure.subplots(len(asked), len(PANELS), squeeze=False, sharey="row" if flat else False)
    for panels, on in zip(grid, asked, strict=True):
        drawn = sized[(sized["compress_on"] == on) & (sized["n"] == sized["expected"])]
        lines = in_order(drawn, VARIANT)
        for axes, (measure, (label, full)) in zip(panels, PANELS.items(), strict=True):
            ends = (measure, f"{measure}_low", f"{measure}_high")
            if flat:
                axes.axvline(full, color=ink(), linestyle="--", linewidth=0.8)
                dots(axes, drawn, *ends)
                axes.set_xlabel(label)
            else:
                axes.axhline(full, color=ink(), linestyle="--", linewidth=0.8)
                for place, (key, part) in enumerate(lines):
                    part = part.sort_values("kv_size")
                    x = part["kv_size"].to_numpy(dtype=float) * dodge(place, len(lines))
                    look = {**line_look(*key[:3]), **ERROR_BARS}
                    error = error_bars(part, *ends)
                    named = method_name(*key[:3])
                    axes.errorbar(x, part[measure], yerr=error, label=named, **look)
                log_ticks(axes, sizes)
                axes.set(xlabel="KV size", ylabel=label)
            axes.grid(axis="x" if flat else "y", **grid_look())
        if len(asked) > 1:
            panels[0].set_title(asked_title(on), loc="left")
        if not flat:
            side_legend(figure, panels)
    only = "" if len(asked) > 1 else f", {asked_title(asked[0])}"
    size = f", KV {sizes[0]}" if flat else ""
    heading(figure, f"{title}{size}{only}: fidelity, {counted(cells)}, 95% CI")
    note_partial(figure, sized)
    note_sample(figure, title)
    return figure
