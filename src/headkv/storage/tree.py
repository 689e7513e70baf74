"""A results folder as cells: each cell's files, its lines in the order written, and its runs.

The one place that knows the layout, and which settings of a cell the tables take.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from headkv.errors import UserError
from headkv.storage.lines import Line, read_lines
from headkv.storage.reading import read_if_sound
from headkv.storage.schemas import RUN_RECORD
from headkv.storage.shards import by_cell

_DIGITS = re.compile(r"[0-9]{1,18}")
LAYOUT = "*/*/*/*/*.jsonl"
"""A cell's file in a results folder: benchmark / model / method / kv_size or "full" / task."""


@dataclass(frozen=True)
class CellFiles:
    """The files of one cell and task: one task under one method and size.

    Attributes:
        root: the results folder.
        path: the cell's own file; with shards it need not be there.
        files: what the cell consists of, the one written last at the end.
    """

    root: Path
    path: Path
    files: tuple[Path, ...]

    @cached_property
    def lines(self) -> list[tuple[Path, Line]]:
        """Every line of every file, with its file."""
        return [(file, line) for file in self.files for line in read_lines(file)]

    @property
    def name(self) -> str:
        """The cell's own file, seen from the results folder."""
        return self.path.relative_to(self.root).as_posix()

    @property
    def place(self) -> tuple[str, str, str, str, str, str]:
        """Benchmark, model, method, size, task, and the variant that the file's name mentions."""
        benchmark, model, method, size, _ = Path(self.name).parts
        task, _, variant = self.path.stem.partition("@")
        return benchmark, model, method, size, task, variant

    @property
    def usable(self) -> list[Line]:
        """The lines that hold a row."""
        return [line for _, line in self.lines if line.row is not None]

    @cached_property
    def current(self) -> str:
        """The cell key that the tables take."""
        return current_key(self.usable)

    def answered(self, cell_key: str) -> int:
        """Counts the examples that have an answer under these settings."""
        mine = [line for line in self.usable if line.cell_key == cell_key]
        return len({line.key for line in mine if not line.failed})

    def failed(self, cell_key: str) -> int:
        """Counts the examples that have failed and not been answered since."""
        mine = [line for line in self.usable if line.cell_key == cell_key]
        return len({line.key for line in mine}) - self.answered(cell_key)

    @property
    def keys(self) -> Counter[str]:
        """Cell key -> number of lines, the oldest key first."""
        return Counter(line.cell_key for line in self.usable)


def result_files(root: Path) -> list[Path]:
    """Returns every file of a results folder that lies where a cell's rows do."""
    return [
        path
        for path in sorted(root.glob(LAYOUT))
        if path.is_file() and (path.parent.name == "full" or _DIGITS.fullmatch(path.parent.name))
    ]


def cells(root: Path) -> list[CellFiles]:
    """Returns all cells of a results folder, by benchmark, model, method, size and task.

    Raises:
        UserError: the folder has none.
    """
    files = result_files(root)
    if not files:
        raise UserError(
            f"no results in {root}",
            allowed="a folder with <benchmark>/<model>/<method>/<kv_size>/<task>.jsonl",
            do="name the folder that output_dir= said",
        )
    found = [CellFiles(root, path, tuple(parts)) for path, parts in by_cell(files).items()]
    return sorted(found, key=lambda cell: (*cell.place[:3], _size(cell.place[3]), cell.name))


def current_key(lines: Iterable[Line]) -> str:
    """Returns the settings of a cell that count: most examples answered, of equals the newest.

    A few examples tried with another setting do not hide a finished run.

    Args:
        lines: the lines of one cell, in the order written, all with a row.

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


def run_records(model_folder: Path) -> list[dict[str, Any]]:
    """Returns the readable run records of a benchmark and model, the oldest first.

    Args:
        model_folder: `<output_dir>/<benchmark>/<model>`.
    """
    paths = sorted((model_folder / "runs").glob("*.json"))
    read = (read_if_sound(path, RUN_RECORD)[0] for path in paths)
    return [record for record in read if record is not None]


def asked(root: Path) -> dict[tuple[str, str], int]:
    """Returns the expected number of examples of each cell.

    Args:
        root: the results folder.

    Returns:
        (File of a cell from `root`, cell key) -> the largest number that any recorded run asked
        for.
    """
    found: dict[tuple[str, str], int] = {}
    for folder in sorted({path.parent.parent for path in root.glob("*/*/runs/*.json")}):
        for record in run_records(folder):
            for name, (key, count) in record.get("files", {}).items():
                place = ((folder.relative_to(root) / name).as_posix(), key)
                found[place] = max(count, found.get(place, 0))
    return found


def _size(folder: str) -> float:
    """The KV size that a folder's name says, the full cache's above all others."""
    return float("inf") if folder == "full" else int(folder)
