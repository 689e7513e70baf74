"""A table of finished text, for terminals, Markdown and LaTeX."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tabulate import DataRow, Line, TableFormat, tabulate

WIDE = 9  # columns from which on LaTeX scales a table to the page's width
RULE, ROW = Line("", "-", "--", ""), DataRow("", "  ", "")
TEXT = TableFormat(RULE, RULE, None, RULE, ROW, ROW, padding=0, with_header_hide=None)
MARKDOWN_ESCAPES = str.maketrans({mark: f"\\{mark}" for mark in "\\|*`"} | {"<": "&lt;"})
LATEX_ESCAPES = str.maketrans(
    {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    | {"<": r"$<$", ">": r"$>$"}
    # A bracket that opens a row would be read as the optional argument of the `\\` before it.
    | {"[": "{[}", "]": "{]}"}
)


@dataclass(frozen=True)
class Table:
    """A table of finished text: what each writer needs, and nothing to compute.

    Attributes:
        title: the caption.
        header: one text a column; the first column stands to the left, the others to the right.
        rows: one text a column.
        note: what stands below.
        bold: `(row, column)` of the cells in bold; a terminal shows a star behind them.
        groups: rows that begin a new group; LaTeX draws a rule above them.
        legend: what bold means; told only where there is some.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    bold: frozenset[tuple[int, int]] = frozenset()
    groups: frozenset[int] = frozenset()
    legend: str = ""

    def under(self, note: str) -> "Table":
        """The same table with another sentence below it."""
        return replace(self, note=f"{self.note} {note}".strip())

    def to_text(self) -> str:
        """Plain columns for a terminal, a star behind cells in bold."""
        # A column's other cells give the star room, so that digits stand below digits.
        rows = [
            [
                c + ("*" if (i, j) in self.bold else " " if j and self.bold else "")
                for j, c in enumerate(row)
            ]
            for i, row in enumerate(self.rows)
        ]
        body = self._tabulated(self.header, rows, TEXT)
        lines = [self.title, *(line.rstrip() for line in body.splitlines()), self._told("*")]
        return "\n".join(filter(None, lines)) + "\n"

    def to_markdown(self) -> str:
        """A GitHub table under its title."""
        header = [markdown_text(cell) for cell in self.header]
        body = self._tabulated(header, self._body(markdown_text, "**", "**"), "pipe")
        parts = [f"### {markdown_text(self.title)}", body, markdown_text(self._told("Bold"))]
        return "\n\n".join(filter(None, parts)) + "\n"

    def to_latex(self) -> str:
        """A floating `table`; needs the booktabs package, and graphicx where it is wide."""
        wide = len(self.header) >= WIDE
        lines = []
        for place, row in enumerate(self._body(latex_text, r"\textbf{", "}")):
            lines += [r"\midrule"] if place in self.groups and place else []
            lines.append(" & ".join(row) + r" \\")
        caption = latex_text(f"{self.title}. {self._told('Bold')}".rstrip(". ") + ".")
        star = "*" if wide else ""
        return "\n".join(
            [
                rf"\begin{{table{star}}}",
                r"\centering",
                rf"\caption{{{caption}}}",
                *([r"\resizebox{\textwidth}{!}{%"] if wide else []),
                rf"\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}",
                r"\toprule",
                " & ".join(map(latex_text, self.header)) + r" \\",
                r"\midrule",
                *lines,
                r"\bottomrule",
                r"\end{tabular}" + ("}" if wide else ""),
                rf"\end{{table{star}}}",
                "",
            ]
        )

    def _tabulated(self, header: list[str], rows: list[list[str]], form: str | TableFormat) -> str:
        align = ["left", *["right"] * (len(header) - 1)]
        return tabulate(
            rows, header, form, colalign=align, disable_numparse=True, preserve_whitespace=True
        )

    def _body(self, escape: Callable[[str], str], before: str, after: str) -> list[list[str]]:
        """The rows, escaped; `before` and `after` go around cells in bold."""
        return [
            [
                f"{before}{escape(cell)}{after}" if (i, j) in self.bold else escape(cell)
                for j, cell in enumerate(row)
            ]
            for i, row in enumerate(self.rows)
        ]

    def _told(self, mark: str) -> str:
        """What stands below; `mark` is what cells in bold are called."""
        return f"{mark}: {self.legend} {self.note}".strip() if self.bold else self.note


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return " ".join(text.translate(MARKDOWN_ESCAPES).split())


def latex_text(text: str) -> str:
    """Text that LaTeX shows as it is, on one line."""
    return " ".join(text.split()).translate(LATEX_ESCAPES)
