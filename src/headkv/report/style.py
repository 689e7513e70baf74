"""How results look: names and order of methods, colours, and the text forms of a table."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

NAMES = {
    "fullkv": "FullKV",
    "dynamic_cache": "DynamicCache",
    "streamingllm": "StreamingLLM",
    "snapkv": "SnapKV",
    "pyramidkv": "PyramidKV",
    "adakv": "Ada-KV",
    "compresskv": "CompressKV",
    "headkv_r": "HeadKV-R",
    "headkv_r2": "HeadKV-R2",
}
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
DEFAULT_SETTING = ("corrected", "kv_head")

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


def _base(method: str) -> str:
    """The known method a name begins with: `headkv_r2` for `headkv_r2_permuted`, else itself."""
    known = [name for name in NAMES if method == name or method.startswith(f"{name}_")]
    return max(known, key=len, default=method)


def method_name(method: str, protocol: str = "corrected", granularity: str = "kv_head") -> str:
    """The name a reader knows, with whatever is not the default in brackets."""
    base = _base(method)
    extra = [method.removeprefix(base).strip("_").replace("_", " ")] if method != base else []
    if (protocol, granularity) != DEFAULT_SETTING:
        extra += [protocol, granularity.replace("_", " ")]
    name = NAMES.get(base, base)
    return f"{name} ({', '.join(extra)})" if extra else name


def method_order(method: str) -> tuple[int, str]:
    """Sort key: the full cache first, the others as in `NAMES`, strangers last."""
    base = _base(method)
    return (list(NAMES).index(base) if base in NAMES else len(NAMES), method)


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


def size_name(kv_size: Any) -> str:
    """`KV 128`, or `full`."""
    return "full" if pd.isna(kv_size) else f"KV {int(kv_size)}"


@dataclass(frozen=True)
class Table:
    """A table of finished text: what each writer needs, and nothing to compute."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""

    def to_text(self) -> str:
        """Plain columns for a terminal, the first to the left, the others to the right."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]

        def line(cells: list[str]) -> str:
            padded = [cells[0].ljust(widths[0])]
            padded += [c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)]
            return "  ".join(padded).rstrip()

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        body = [self.title, rule, line(self.header), rule, *map(line, self.rows), rule]
        return "\n".join([*body, self.note] if self.note else body) + "\n"

    def to_markdown(self) -> str:
        """A GitHub table under its title."""
        align = [":--", *["--:"] * (len(self.header) - 1)]
        cells = [[_markdown(c) for c in self.header], align, *self._body(_markdown, "**", "**")]
        rows = "\n".join("| " + " | ".join(row) + " |" for row in cells)
        note = self._told("Bold")
        return f"### {_markdown(self.title)}\n\n{rows}\n" + (
            f"\n{_markdown(note)}\n" if note else ""
        )

    def to_latex(self) -> str:
        """A floating `table`; needs the booktabs package, and graphicx where it is wide."""
        head = " & ".join(map(_latex, self.header)) + r" \\"
        lines = []
        for place, row in enumerate(self._body(_latex, r"\textbf{", "}")):
            lines += [r"\midrule"] if self._ruled(place) else []
            lines.append(" & ".join(row) + r" \\")
        caption = _latex(f"{self.title}. {self._told('Bold')}".rstrip(". ") + ".")
        star = "*" if self.wide else ""
        return "\n".join(
            [
                rf"\begin{{table{star}}}",
                r"\centering",
                rf"\caption{{{caption}}}",
                *([r"\resizebox{\textwidth}{!}{%"] if self.wide else []),
                rf"\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}",
                r"\toprule",
                head,
                r"\midrule",
                *lines,
                r"\bottomrule",
                r"\end{tabular}" + ("}" if self.wide else ""),
                rf"\end{{table{star}}}",
                "",
            ]
        )

    @property
    def wide(self) -> bool:
        """Whether LaTeX scales it to the page's width."""
        return False

    def _body(self, escape: Callable[[str], str], before: str, after: str) -> list[list[str]]:
        """The rows, escaped; `before` and `after` go around marked cells, of which there are none."""
        return [[escape(cell) for cell in row] for row in self.rows]

    def _told(self, mark: str) -> str:
        """What stands below; `mark` is what marked cells are called."""
        return self.note

    def _ruled(self, row: int) -> bool:
        """Whether LaTeX draws a rule above a row."""
        return False


def _markdown(text: str) -> str:
    for mark in "\\|*`":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.replace("<", "&lt;").split())


def _latex(text: str) -> str:
    marks = {mark: f"\\{mark}" for mark in "&%$#_{}"}
    marks |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    marks |= {"<": r"$<$", ">": r"$>$"}
    # A bracket that opens a row would be read as the optional argument of the `\\` before it.
    marks |= {"[": "{[}", "]": "{]}"}
    return "".join(marks.get(mark, mark) for mark in " ".join(text.split()))


def write_atomic(path: Path, content: bytes) -> Path:
    """Writes a file whole or not at all, so that a reader never sees half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
