"""A table with cells in bold and rules between groups of rows."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from headkv.report.style import Table

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
