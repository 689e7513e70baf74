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
        number: from 1.
        raw: its bytes, newline included unless it is torn.
        row: what it holds; None if it cannot be used.
    """

    number: int
    raw: bytes
    row: dict[str, Any] | None

    @property
    def torn(self) -> bool:
        """Whether its writer died: only the last line can be, and it is not an error."""
        return not self.raw.endswith(b"\n")

    @property
    def cell_key(self) -> str:
        """The part of the row's key that all rows of a cell share."""
        return str((self.row or {}).get("run_key", "")).rpartition("-")[0]

    @property
    def failed(self) -> bool:
        """Whether it says why an example was not answered."""
        return self.row is not None and "error" in self.row

    @property
    def key(self) -> tuple[str, str]:
        """The row's id and run key, which no two answers share."""
        row = self.row or {}
        return str(row.get("id")), str(row.get("run_key"))


def read_lines(path: Path) -> list[Line]:
    """The lines of a result file, usable or not."""
    found = []
    for number, raw in enumerate(io.BytesIO(path.read_bytes()), 1):
        row = None
        if raw.endswith(b"\n"):
            with suppress(ValueError):  # not JSON, or not UTF-8
                row = json.loads(raw)
        usable = isinstance(row, dict) and "id" in row and "run_key" in row
        found.append(Line(number, raw, row if usable else None))
    return found
