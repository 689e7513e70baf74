"""A table with cells in bold and rules between groups of rows."""

from collections.abc import Callable
from dataclasses import dataclass, replace

WIDE = 9  # columns from which on LaTeX scales a table to the page's width


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


@dataclass(frozen=True)
class MarkedTable(Table):
    """A `Table` some of whose cells are marked.

    Attributes:
        bold: `(row, column)` of the cells in bold; a terminal shows a star behind them.
        groups: rows that begin a new group; LaTeX draws a rule above them.
        legend: what bold means; told only where there is some.
    """

    bold: frozenset[tuple[int, int]] = frozenset()
    groups: frozenset[int] = frozenset()
    legend: str = ""

    def _told(self, mark: str) -> str:
        return f"{mark}: {self.legend} {self.note}".strip() if self.bold else self.note

    def _body(self, escape: Callable[[str], str], before: str, after: str) -> list[list[str]]:
        return [
            [f"{before}{c}{after}" if (i, j) in self.bold else c for j, c in enumerate(row)]
            for i, row in enumerate(super()._body(escape, before, after))
        ]

    def _ruled(self, row: int) -> bool:
        return row in self.groups and row > 0

    @property
    def wide(self) -> bool:
        """Whether LaTeX scales it to the page's width."""
        return len(self.header) >= WIDE

    def to_text(self) -> str:
        """Plain columns for a terminal, a star behind marked cells."""
        rows = [
            [c + ("*" if (i, j) in self.bold else " " if j else "") for j, c in enumerate(row)]
            for i, row in enumerate(self.rows)
        ]
        starred = self._told("*")
        plain = Table(self.title, self.header, rows if self.bold else self.rows, starred)
        return plain.to_text()

    def under(self, note: str) -> "MarkedTable":
        """The same table with another sentence below it."""
        return replace(self, note=f"{self.note} {note}".strip())


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
