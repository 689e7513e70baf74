"""Checking a results folder: broken lines, figures that cannot be, rows of unknown runs."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headkv.storage.kinds import faults, side_files
from headkv.storage.tree import LAYOUT, CellFiles, cells, run_records


def problems(root: Path) -> list[str]:
    """Returns one line of text for everything that is wrong.

    Args:
        root: the results folder, or one file: head scores, layer importance, a log, a record.

    Raises:
        UserError: there are no results.
    """
    if root.is_file():
        return [f"{root}: {wrong}" for wrong in faults(root)]
    found = []
    all_cells = cells(root)
    for cell in all_cells:
        found += [*_lines(cell), *_doubled(cell)]
    for folder in sorted({cell.path.parents[2] for cell in all_cells}):
        found += _runs(folder, root, [cell for cell in all_cells if folder in cell.path.parents])
    for path in side_files(root):
        found += [f"{path.relative_to(root)}: {wrong}" for wrong in faults(path)]
    for path in sorted(root.glob(LAYOUT)):
        if not path.is_file():
            found.append(f"{path.relative_to(root)}: a folder where a result file is wanted")
    return found


def _lines(cell: CellFiles) -> Iterator[str]:
    """What is wrong with each line by itself."""
    for path, line in cell.lines:
        where = f"{path.relative_to(cell.root)}, line {line.number}"
        if line.torn:
            yield f"{where}: half-written; the next run writes it again"
        elif line.row is None:
            yield f"{where}: not a result{line.why}"
        elif not line.failed:
            for wrong in _row(line.row):
                yield f"{where} ({line.key[0]}): {wrong}"


def _row(row: dict[str, Any]) -> Iterator[str]:
    """What a row says that cannot be. Measurements lack some of the figures."""
    if "full_cache_bytes" not in row or row.get("compress_on", "prompt") != "prompt":
        return
    held, full = row["cache_bytes"], row["full_cache_bytes"]
    size = row.get("kv_size")
    if size is None and held != full:
        yield f"a full cache of {held} bytes where the prompt takes {full}"
    # Lists for each query head may well be larger than the cache of KV heads that they replace.
    shorter = size is not None and size < row["prompt_tokens"]
    if shorter and row.get("granularity") == "kv_head" and held >= full:
        yield f"not compressed: {row['prompt_tokens']} tokens, kv_size {size}, {held} bytes"


def _doubled(cell: CellFiles) -> Iterator[str]:
    """Answers that are there more than once."""
    answers = Counter(line.key for line in cell.usable if not line.failed)
    for (id, run_key), count in answers.items():
        if count > 1:
            yield f"{cell.name}: {id} is there {count} times under {run_key}"


def _runs(folder: Path, root: Path, here: list[CellFiles]) -> Iterator[str]:
    """Rows that no record of a run knows of."""
    if not (folder / "run.json").is_file():
        yield f"{folder.relative_to(root)}: no run.json"
        return
    known = {key for run in run_records(folder) for key, _ in run.get("files", {}).values()}
    for cell in here if known else []:
        for key in sorted(set(cell.keys) - known):
            yield f"{cell.name}: rows of {key}, of which no run is recorded"
