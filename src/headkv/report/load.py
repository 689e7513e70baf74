"""Result files into one table of rows; knows the files' layout, nothing of what is made of them.

Result files are append-only, so a file may hold what later lines have overruled: rows of an
earlier run with other settings, an example answered twice, a line a killed run never finished.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from headkv.errors import UserError, choose

LAYOUT = "*/*/*/*/*.jsonl"  # benchmark / model / method / kv_size or "full" / task
FIELDS = [
    "id",
    "score",
    "prompt_tokens",
    "kv_size",
    "kept_tokens",
    "cache_bytes",
    "full_cache_bytes",
    "protocol",
    "granularity",
    "run_key",
]
ORDER = ["benchmark", "model", "method", "protocol", "granularity", "kv_size", "task", "id"]


def load_results(output_dir: str | Path, benchmark: str | None = None) -> pd.DataFrame:
    """Reads every current row of a results folder.

    Args:
        output_dir: the folder the `run_*.py` scripts write to.
        benchmark: only this benchmark's rows; all when None.

    Returns:
        One line an example and cell: the fields of the result file, and `benchmark`, `model`,
        `method`, `task`. `kv_size` is <NA> for the full cache. Sorted, so that the order in
        which a run finished its examples changes nothing downstream.

    Raises:
        UserError: there are no rows, or a row lacks a field.
    """
    root = Path(output_dir)
    files = [path for path in sorted(root.glob(LAYOUT)) if _is_size(path.parent.name)]
    if benchmark is not None and files:
        choose("benchmark", benchmark, sorted({path.parts[-5] for path in files}))
        files = [path for path in files if path.parts[-5] == benchmark]
    rows = [row for path in files for row in _read(path, root)]
    if not rows:
        raise UserError(
            f"no results in {root}",
            allowed="a folder with <benchmark>/<model>/<method>/<kv_size>/<task>.jsonl",
            do="run `make demo` or one of the run_*.py scripts first",
        )
    frame = pd.DataFrame(rows)
    frame["id"] = frame["id"].astype(str)
    frame["kv_size"] = frame["kv_size"].astype("Int64")
    frame = frame.sort_values(ORDER, na_position="first", ignore_index=True)
    _warn_of_other_prompts(frame)
    return frame


def _is_size(folder: str) -> bool:
    return folder == "full" or folder.isdigit()


def _read(path: Path, root: Path) -> list[dict[str, Any]]:
    """The rows of one file that its last run stands for, by id, last one first to count."""
    name = path.relative_to(root)
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    parsed = [_parse(line) for line in lines]
    rows = [row for row in parsed if row is not None]
    if len(rows) < len(lines):
        torn = "its half-written last line" if parsed[-1] is None else "unreadable lines"
        _say(f"{name}: ignored {len(lines) - len(rows)} of {len(lines)} lines: {torn}")
    for row in rows:
        _check(row, name)
    cells = [str(row["run_key"]).rpartition("-")[0] for row in rows]
    current = [row for row, cell in zip(rows, cells, strict=True) if cell == cells[-1]]
    if len(current) < len(rows):
        _say(f"{name}: ignored {len(rows) - len(current)} rows of runs with other settings")
    benchmark, model, method = name.parts[:3]
    # The file's name carries a protocol other than the default; the row says so itself.
    where = {
        "benchmark": benchmark,
        "model": model,
        "method": method,
        "task": path.stem.partition("@")[0],
    }
    return [{**row, **where} for row in {str(row["id"]): row for row in current}.values()]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:  # not JSON, or cut inside a character
        return None
    return row if isinstance(row, dict) else None


def _check(row: dict[str, Any], name: Path) -> None:
    missing = [field for field in FIELDS if field not in row]
    score = row.get("score")
    if missing or not isinstance(score, int | float) or not math.isfinite(score):
        raise UserError(
            f"{name}: row {row.get('id')!r} has no {', '.join(missing) or 'usable score'}",
            allowed="rows as the run_*.py scripts write them",
            do="move the file away and run its cell again",
        )


def _warn_of_other_prompts(frame: pd.DataFrame) -> None:
    """Methods are compared example by example, which only means something on one prompt."""
    example = ["benchmark", "model", "protocol", "task", "id"]
    kinds = frame.groupby(example)["prompt_tokens"].nunique()
    for (benchmark, model), count in (
        (kinds > 1).groupby(level=["benchmark", "model"]).sum().items()
    ):
        if count:
            _say(
                f"{benchmark}/{model}: {count} examples have prompts of different lengths under "
                "different methods; these runs had other settings and do not compare"
            )


def _say(message: str) -> None:
    print(f"headkv.report: {message}", file=sys.stderr)
