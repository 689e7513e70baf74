"""Reading result files line by line, whatever state they are in."""

import io
import json
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LAYOUT = "*/*/*/*/*.jsonl"  # benchmark / model / method / kv_size or "full" / task


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


def result_files(root: Path) -> list[Path]:
    """Every file of a results folder that lies where a cell's rows do."""
    return [
        path
        for path in sorted(root.glob(LAYOUT))
        if path.parent.name == "full" or path.parent.name.isdigit()
    ]


def current_key(lines: Iterable[Line]) -> str:
    """The settings of a cell that count: most examples answered; of equals the last written.

    A few examples tried with another setting do not hide a finished run.

    Args:
        lines: of one cell, in the order written, all with a row.

    Returns:
        The cell key; empty if there are no lines.
    """
    last: dict[str, int] = {}
    answered: defaultdict[str, set[str]] = defaultdict(set)
    for place, line in enumerate(lines):
        last[line.cell_key] = place
        if not line.failed:
            answered[line.cell_key].add(line.key[0])
    return max(last, key=lambda key: (len(answered[key]), last[key]), default="")
