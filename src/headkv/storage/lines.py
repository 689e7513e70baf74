"""Reading result files line by line, whatever state they are in."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headkv.storage.faults import row_fault
from headkv.storage.reading import parse, read_bytes


@dataclass(frozen=True)
class Line:
    """One line of a result file.

    Attributes:
        number: place in the file, from 1.
        raw: the bytes as they stand in the file; the last line's may lack the newline.
        row: what the line holds; None if it cannot be used.
        misfit: why a line of JSON cannot be used.
        keyed: whether it has an id and a run key, be it of use or not.
    """

    number: int
    raw: bytes
    row: dict[str, Any] | None
    misfit: str = ""
    keyed: bool = False

    @property
    def ended(self) -> bool:
        """Whether the line has its newline."""
        return self.raw.endswith(b"\n")

    @property
    def whole(self) -> bytes:
        """The line's bytes with their newline, as another file takes them."""
        return self.raw if self.ended else self.raw + b"\n"

    @property
    def torn(self) -> bool:
        """Whether its writer died half-way: only the last line can be torn, and it is no error.

        A last line that lacks nothing but its newline holds a whole row and is not torn.
        """
        return not self.ended and self.row is None and not self.keyed

    @property
    def why(self) -> str:
        """Why it cannot be used, for the end of a message."""
        return f": {self.misfit}" if self.misfit else ""

    @property
    def cell_key(self) -> str:
        """The part of the row's key that all rows of a cell share."""
        return str((self.row or {}).get("run_key", "")).rpartition("-")[0]

    @property
    def failed(self) -> bool:
        """Whether the line says why an example was not answered."""
        return self.row is not None and "error" in self.row

    @property
    def key(self) -> tuple[str, str]:
        """The row's id and run key, which no two answers share."""
        row = self.row or {}
        return str(row.get("id")), str(row.get("run_key"))


def read_lines(path: Path, fault: Callable[[Any], str] = row_fault) -> list[Line]:
    """Reads every line of a file, usable or not.

    Args:
        path: the file.
        fault: says what is wrong with a line's content; empty if it is of use.

    Raises:
        UserError: the file cannot be read.
    """
    found = []
    do = "move it away, or let yourself read it"
    whole = read_bytes(path, "results", allowed="a file of JSON lines", do=do)
    for number, raw in enumerate(io.BytesIO(whole), 1):
        try:
            row = parse(raw)
        except ValueError:  # not JSON, or not UTF-8
            found.append(Line(number, raw, None))
            continue
        misfit = fault(row) if isinstance(row, dict) else "no JSON object"
        keyed = isinstance(row, dict) and "id" in row and "run_key" in row
        found.append(Line(number, raw, None if misfit else row, misfit, keyed))
    return found


def newest_rows(root: Path, layout: str, field: str) -> list[dict[str, Any]]:
    """The last row of every id in each of some files, failed ones left out.

    Args:
        root: a results folder.
        layout: glob of the files below it; their folders are benchmark, model and method.
        field: that such a row has.

    Returns:
        The rows, with `model` and `method`.
    """
    rows: list[dict[str, Any]] = []
    for path in sorted(root.glob(layout)):
        newest = {
            line.row["id"]: line.row
            for line in read_lines(path)
            if line.row and field in line.row and not line.failed
        }
        model, method = path.relative_to(root).parts[1:3]
        rows += [{**row, "model": model, "method": method} for row in newest.values()]
    return rows
