"""Reading result files line by line, whatever state they are in."""

import io
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Line:
    """One line of a result file.

    Attributes:
        number: place in the file, from 1.
        raw: the bytes as they stand in the file; the last line's may lack the newline.
        row: what the line holds; None if it cannot be used.
    """

    number: int
    raw: bytes
    row: dict[str, Any] | None

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
        return not self.ended and self.row is None

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


def read_lines(path: Path) -> list[Line]:
    """Reads every line of a result file, usable or not.

    Args:
        path: the file.
    """
    found = []
    for number, raw in enumerate(io.BytesIO(path.read_bytes()), 1):
        row = None
        with suppress(ValueError):  # not JSON, or not UTF-8
            row = json.loads(raw)
        usable = isinstance(row, dict) and "id" in row and "run_key" in row
        found.append(Line(number, raw, row if usable else None))
    return found
