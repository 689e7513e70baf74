"""Every figure of a results folder, for paper and for dark screens."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from headkv.report.figures.accuracy import accuracy_figure, bytes_figure
from headkv.report.figures.axes import save_figure
from headkv.report.figures.efficiency import efficiency_figures, load_efficiency
from headkv.report.figures.fidelity import fidelity_figure
from headkv.report.figures.heatmap import heatmaps
from headkv.report.figures.sensitivity import sensitivity_figures
from headkv.report.figures.style import DARK_STYLE, PLOT_STYLE
from headkv.report.groups import Rows, grouped

DARK = "dark"
"""Folder in `figures/` of the same figures for dark screens, which the page shows."""


def write_figures(rows: Rows, output_dir: str | Path, dark: bool = False) -> list[Path]:
    """Writes `figures/<benchmark>_<model>_<what>.{png,pdf}`, whatever the rows have data for.

    `accuracy` and `bytes` need a compressed cache, `heatmap` needles with length and depth or
    tasks and lengths, `fidelity` its measures. Trials of settings in the folder get `sensitivity`,
    measurements of the efficiency experiment `efficiency_<model>_latency` and `_memory`.

    Args:
        rows: as `load_results` gives them, or `grouped`.
        output_dir: the results folder.
        dark: write `figures/dark/*.png` instead, for dark screens.

    Returns:
        The files, in the order written.
    """
    folder = Path(output_dir) / "figures"
    style: Any = PLOT_STYLE | DARK_STYLE if dark else PLOT_STYLE
    with matplotlib.rc_context(style):
        found = figures_of(rows, output_dir)
        if dark:
            return [
                path
                for name, figure in found.items()
                for path in save_figure(figure, folder / DARK, name, forms=("png",))
            ]
        return [path for name, each in found.items() for path in save_figure(each, folder, name)]


def figures_of(rows: Rows, output_dir: str | Path) -> dict[str, Figure]:
    """The figures by the name of their files.

    Args:
        rows: as `load_results` gives them, or `grouped`.
        output_dir: the results folder, for its trials of settings and measurements of efficiency.
    """
    found: dict[str, Figure] = {}
    for group in grouped(rows):
        name, title = group.key, group.title
        if group.rows["kv_size"].notna().any():
            found[f"{name}_accuracy"] = accuracy_figure(group.rows, title, group.cells)
            found[f"{name}_bytes"] = bytes_figure(group.rows, title, group.cells)
        found |= heatmaps(group.rows, title, name)
        if group.fidelity["kv_size"].notna().any():
            found[f"{name}_fidelity"] = fidelity_figure(group.fidelity, title)
    found |= sensitivity_figures(output_dir)
    return found | efficiency_figures(load_efficiency(output_dir))
