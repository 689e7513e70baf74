"""A table with cells in bold and rules between groups of rows."""

from dataclasses import dataclass, replace

from headkv.report.style import Table, _latex, _markdown

WIDE = 9  # columns from which on LaTeX scales a table to the page's width


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

    def _with(self, before: str, after: str, rows: list[list[str]]) -> list[list[str]]:
        return [
            [f"{before}{c}{after}" if (i, j) in self.bold else c for j, c in enumerate(row)]
            for i, row in enumerate(rows)
        ]

    def to_text(self) -> str:
        """Plain columns for a terminal, a star behind marked cells."""
        rows = [
            [c + ("*" if (i, j) in self.bold else " " if j else "") for j, c in enumerate(row)]
            for i, row in enumerate(self.rows)
        ]
        starred = self._told("*")
        plain = Table(self.title, self.header, rows if self.bold else self.rows, starred)
        return plain.to_text()

    def to_markdown(self) -> str:
        """A GitHub table under its title, marked cells in bold."""
        align = [":--", *["--:"] * (len(self.header) - 1)]
        body = self._with("**", "**", [[_markdown(c) for c in row] for row in self.rows])
        lines = [[_markdown(c) for c in self.header], align, *body]
        told = self._told("Bold")
        note = f"\n{_markdown(told)}\n" if told else ""
        rows = "\n".join("| " + " | ".join(row) + " |" for row in lines)
        return f"### {_markdown(self.title)}\n\n{rows}\n{note}"

    def to_latex(self) -> str:
        """A floating `table`; needs booktabs, and graphicx where it has many columns."""
        body = self._with(r"\textbf{", "}", [[_latex(c) for c in row] for row in self.rows])
        lines = []
        for place, row in enumerate(body):
            lines += [r"\midrule"] if place in self.groups and place else []
            lines.append(" & ".join(row) + r" \\")
        told = self._told("Bold")
        caption = _latex(f"{self.title}. {told}".rstrip(". ") + ".")
        wide = len(self.header) >= WIDE
        return "\n".join(
            [
                r"\begin{table*}" if wide else r"\begin{table}",
                r"\centering",
                rf"\caption{{{caption}}}",
                *([r"\resizebox{\textwidth}{!}{%"] if wide else []),
                rf"\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}",
                r"\toprule",
                " & ".join(map(_latex, self.header)) + r" \\",
                r"\midrule",
                *lines,
                r"\bottomrule",
                r"\end{tabular}" + ("}" if wide else ""),
                r"\end{table*}" if wide else r"\end{table}",
                "",
            ]
        )

    def under(self, note: str) -> "MarkedTable":
        """The same table with another sentence below it."""
        return replace(self, note=f"{self.note} {note}".strip())
