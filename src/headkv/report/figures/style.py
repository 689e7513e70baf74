"""How figures look: lines of methods and of head-score kinds, and matplotlib's settings."""

from typing import Any
from zlib import crc32

from matplotlib import rcParams
from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D

from headkv.errors import UserError
from headkv.report.names import DEFAULT_SETTING, display, parts_of

CONTROL_LINE = (0, (1, 2))
# Of a method with another scorer or allocator than its own; which one its name decides.
PAIRING_LINES = [(0, (4, 1, 1, 1)), (0, (2, 1)), (0, (6, 2)), (0, (1, 1, 3, 1))]
# Of a method with entries of fewer bits: line style, and size of hollow marks.
BITS_LOOKS = {"8bit": ((0, (5, 2)), 6.0), "4bit": ((0, (1, 1)), 9.0), "2bit": ((0, (1, 3)), 12.0)}

# A kind of head score has the colour of the method built on it. (colour, line style)
KIND_LOOKS = {
    "retrieval": ("#0072B2", (0, (5, 1))),
    "retrieval_reasoning": ("#D55E00", "-"),
    "semantic": ("#CC79A7", (0, (3, 1, 1, 1))),
}

COLOURS = "cividis"  # of heatmaps: made for colour-blind readers, and even in grey
WARNING, WARNING_DARK = "#B00000", "#FF9C8F"

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
LEAST_LIGHT = 0.4  # of a line on a dark ground, 0 black to 1 white
DARK, LIGHT_INK = "#15171A", "#E4E7EA"  # the page's own, see html/page.css
DARK_STYLE: Any = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), DARK),
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor"), LIGHT_INK
    ),
    **dict.fromkeys(("xtick.color", "ytick.color"), LIGHT_INK),
}


def is_dark() -> bool:
    """Whether figures are being drawn for dark screens."""
    return bool(rcParams["figure.facecolor"] == DARK)


def ink() -> str:
    """The colour of what is black on paper."""
    return LIGHT_INK if is_dark() else "#000000"


def grid_look() -> dict[str, Any]:
    """Plot arguments of grid lines."""
    return {"color": "#363B42" if is_dark() else "#DDDDDD", "linewidth": 0.6}


def warning_colour() -> str:
    """The colour of notes that a reader must not miss."""
    return WARNING_DARK if is_dark() else WARNING


def line_look(method: str, protocol: str, granularity: str) -> dict[str, Any]:
    """Plot arguments of a method's line.

    A control of the method keeps its colour, dotted and with hollow markers; another scorer or
    allocator has other dashes; fewer bits have hollow marks, the larger the fewer; another
    protocol or granularity has half-filled markers.

    Args:
        method: as rows name it.
        protocol: the row's.
        granularity: the row's.

    Raises:
        UserError: matplotlib knows no such colour, marker or line style.
    """
    own, others = parts_of(method)
    shown = display(own)
    look: dict[str, Any] = {"color": shown.colour, "marker": shown.marker, "linestyle": shown.line}
    try:
        Line2D([], [], **look)
    except (TypeError, ValueError) as problem:
        raise UserError(
            f"display of method {own}: {problem}",
            allowed="matplotlib's colours, markers and line styles",
            do=f"change the display: of conf/method/{own}.yaml",
        ) from problem
    if others:
        look |= {"linestyle": PAIRING_LINES[crc32("+".join(others).encode()) % len(PAIRING_LINES)]}
    if is_dark():
        look["color"] = _readable(shown.colour)
    paper = rcParams["axes.facecolor"]
    if shown.mark:
        look |= {"linestyle": CONTROL_LINE, "markerfacecolor": paper}
    for line, size in (BITS_LOOKS[each] for each in others if each in BITS_LOOKS):
        look |= {"linestyle": line, "markersize": size, "markerfacecolor": "none"}
    if (protocol, granularity) != DEFAULT_SETTING:
        look |= {"linewidth": 0.8, "fillstyle": "left", "markerfacecoloralt": paper}
    return look


def _readable(colour: str) -> str:
    """The colour on a dark ground: as far towards white as it takes to be told from it."""
    parts, light = to_rgb(colour), LEAST_LIGHT
    if not any(parts):
        return ink()
    weighed = sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))
    if weighed >= light:
        return to_hex(parts)
    mixed = (light - weighed) / (1 - weighed)
    return to_hex([part + mixed * (1 - part) for part in parts])
