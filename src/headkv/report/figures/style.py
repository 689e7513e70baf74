"""TODO."""

from typing import Any

from headkv.report.names import DEFAULT_SETTING, _base

# Okabe-Ito without its yellow, which a white page swallows; grey takes its place. Markers and
# dashes tell the lines apart in print. (colour, marker, line style)
LOOKS = {
    "fullkv": ("#000000", "", "--"),
    "dynamic_cache": ("#000000", "+", ":"),
    "streamingllm": ("#7F7F7F", "x", ":"),
    "snapkv": ("#E69F00", "s", "-."),
    "pyramidkv": ("#009E73", "^", (0, (1, 1))),
    "adakv": ("#56B4E9", "v", "--"),
    "compresskv": ("#CC79A7", "P", (0, (3, 1, 1, 1, 1, 1))),
    "headkv_r": ("#0072B2", "D", (0, (5, 1))),
    "headkv_r2": ("#D55E00", "o", "-"),
}


UNKNOWN_LOOK = ("#000000", "*", "-")


# A kind of head score has the colour of the method built on it. (colour, line style)
KIND_LOOKS = {
    "retrieval": ("#0072B2", (0, (5, 1))),
    "retrieval_reasoning": ("#D55E00", "-"),
    "semantic": ("#CC79A7", (0, (3, 1, 1, 1))),
}


COLOURS = "cividis"  # of heatmaps: made for colour-blind readers, and even in grey


GRID: Any = {"color": "#DDDDDD", "linewidth": 0.6}


PLOT_STYLE: Any = {  # matplotlib types its keys as one long Literal
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same figure on every machine
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "pdf.fonttype": 42,  # real text in the PDF, not outlines
}


def line_look(method: str, protocol: str, granularity: str) -> dict[str, Any]:
    """Plot arguments of a method's line.

    A control of the method keeps its colour, dotted and with hollow markers; another protocol
    or granularity has half-filled ones.
    """
    base = _base(method)
    colour, marker, dashes = LOOKS.get(base, UNKNOWN_LOOK)
    look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": dashes}
    if method != base:
        look |= {"linestyle": (0, (1, 2)), "markerfacecolor": "white"}
    if (protocol, granularity) != DEFAULT_SETTING:
        look |= {"linewidth": 0.8, "fillstyle": "left", "markerfacecoloralt": "white"}
    return look
