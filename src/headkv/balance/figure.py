"""The figure of `headkv balance`: utilisation against ranks, a line for each way to share."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from headkv.balance.loads import Share
from headkv.report.figures.axes import note, save_figure
from headkv.report.figures.style import PLOT_STYLE, grid_look, ink
from headkv.report.names import method_name

COLOURS = ("#7F7F7F", "#0072B2", "#D55E00", "#009E73", "#CC79A7")


def save_balance(
    found: Sequence[tuple[int, Share]], title: str, text: str, folder: Path, name: str
) -> list[Path]:
    """Writes the figure, a panel a KV size.

    Args:
        found: KV sizes, and how each way to share uses the ranks.
        title: printed above.
        text: printed below.
        folder: where to.
        name: of the files.

    Returns:
        The files.
    """
    with rc_context(PLOT_STYLE):
        sizes = list(dict.fromkeys(size for size, _ in found))
        figure = Figure(figsize=(3.2 * len(sizes) + 1.2, 3.0), layout="constrained")
        panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
        for axes, size in zip(panels, sizes, strict=True):
            lines: dict[str, list[Share]] = {}
            for share in (share for each, share in found if each == size):
                lines.setdefault(f"{method_name(share.method)}, {share.way}", []).append(share)
            for index, (label, line) in enumerate(lines.items()):
                even = line[0].method == "snapkv"
                axes.plot(
                    range(len(line)),
                    [100 * each.utilisation for each in line],
                    color=ink() if even else COLOURS[index % len(COLOURS)],
                    linestyle="--" if even else "-",
                    marker="" if even else "osD^v"[index % 5],
                    label=label,
                )
            ticks = [str(each.ranks) for each in next(iter(lines.values()))]
            axes.set_xticks(range(len(ticks)), ticks)
            axes.set_xlabel("tensor-parallel ranks")
            axes.set_title(f"KV {size}")
            axes.grid(axis="y", **grid_look())
        panels[0].set_ylabel("ranks used (%), modelled")
        panels[0].set_ylim(0, 105)
        panels[-1].legend(loc="lower left", fontsize=7)
        figure.suptitle(title, fontsize=9)
        note(figure, text)
        return save_figure(figure, folder, name)
