"""Result files into one table of rows; knows the files' layout, nothing of what is made of them.

Result files are append-only, and a cell may have several (shards). So they may hold what is not to
be counted: rows of other settings, an example answered twice, a line a killed run never finished,
and lines that say why an example has no answer.
"""

import gc
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from headkv.errors import UserError, choose
from headkv.report.names import variant_of
from headkv.storage.lines import Line, read_lines
from headkv.storage.shards import by_cell
from headkv.storage.tree import current_key, result_files, run_records
from headkv.storage.validation import in_validation

LOG = logging.getLogger(__name__)
SAMPLE = "sample"
# Folders beside the benchmarks' in a results folder.
NO_BENCHMARKS = frozenset(
    [
        SAMPLE,
        "beta",
        "tuning",
        "efficiency",
        "stream",
        "masking",
        "heads",
        "gpu",
        "findings",
        "notebooks",
        "tables",
        "figures",
        "leaderboard",
        "report",
    ]
)
ORDER = [
    "benchmark",
    "model",
    "method",
    "protocol",
    "granularity",
    "compress_on",
    "kv_size",
    "task",
    "id",
]


def results_folder(given: str | None, default: str | Path = "results") -> Path:
    """The folder to read and write: the one given, else `results`, else the committed sample in it.

    Args:
        given: the user's choice, taken as it is.
        default: what is meant where there is none.
    """
    if given is not None:
        return Path(given)
    root = Path(default)
    if not _files(root) and _files(root / SAMPLE):
        LOG.warning("no results of yours in %s: this is of the sample in %s", root, root / SAMPLE)
        return root / SAMPLE
    return root


def load_results(output_dir: str | Path, benchmark: str | None = None) -> pd.DataFrame:
    """Reads every current row of a results folder.

    Of a cell with rows of several settings the setting with the most answers counts, of equals the
    one written last: a few examples tried with another setting do not hide a finished run.

    Args:
        output_dir: the folder the `run_*.py` scripts write to.
        benchmark: only this benchmark's rows; all when None.

    Returns:
        One line an example and cell: the fields of the result file, and `benchmark`, `model`,
        `method`, `task` of the file's place, and `failed`: how many examples of the cell and task
        ended in an error instead. `kv_size` is <NA> for the full cache; `compress_on` is `prompt`
        in rows written before there was a choice; `seed` is the run record's in rows that lack
        it, <NA> where there is none. Sorted, so that the order in which a run finished its examples
        changes nothing downstream.

    Raises:
        UserError: there are no rows. Lines that do not fit are left out and named in the log.
    """
    given: object = output_dir
    if not isinstance(given, str | Path):
        raise UserError(
            f"{type(given).__name__} was given where a folder is wanted",
            allowed="a results folder",
            do='give a path such as "results"',
        )
    root = Path(output_dir)
    files = _files(root)
    if benchmark is not None and files:
        known = sorted({path.parts[-5] for path in files})
        choose("benchmark", benchmark, known, do="give --benchmark one of these")
        files = [path for path in files if path.parts[-5] == benchmark]
    seeds = _seeds(root, files)
    with _no_collection():
        found = [_read(cell, parts, root, seeds) for cell, parts in by_cell(files).items()]
    frames = [part for part in found if part is not None]
    if not frames:
        raise UserError(
            f"no results in {root}",
            allowed="a folder with <benchmark>/<model>/<method>/<kv_size>/<task>.jsonl",
            do="run `make demo` or one of the run_*.py scripts first",
        )
    # Cell by cell, so that no more than one cell's rows are ever there twice.
    frame = pd.concat(frames, ignore_index=True)
    frame = _test_part(frame).sort_values(ORDER, na_position="first", ignore_index=True)
    _warn_of_other_prompts(frame)
    return frame


def _test_part(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the validation part where settings were chosen on it: the same examples for all."""
    tuned = frame["method"].map(variant_of).astype(bool)
    if not tuned.any():
        return frame
    places = [tuple(each) for each in frame[["benchmark", "model"]].to_numpy()]
    concerned = {place for place, chosen in zip(places, tuned, strict=True) if chosen}
    names = zip(places, frame["task"], frame["id"], strict=True)
    out = [place in concerned and in_validation(task, id) for place, task, id in names]
    if any(out):
        LOG.warning(f"left out {sum(out)} rows of examples that settings were chosen on")
    return frame[~pd.Series(out, frame.index)]


def _files(root: Path) -> list[Path]:
    """Result files in the layout; `sample/` and what is made of results is not a benchmark's."""
    return [
        path for path in result_files(root) if path.relative_to(root).parts[0] not in NO_BENCHMARKS
    ]


@contextmanager
def _no_collection() -> Iterator[None]:
    """No search for circles of references, which rows have none of: a fifth of the time."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _read(
    cell: Path, parts: Sequence[Path], root: Path, seeds: dict[str, int]
) -> pd.DataFrame | None:
    """The rows of one cell that its current setting stands for, by id, the last of each counting.

    Args:
        cell: its own file, which need not be there.
        parts: the files it consists of, in the order written.
        root: the results folder.
        seeds: of `_seeds`.

    Returns:
        A line an example; None where there is none.
    """
    name = cell.relative_to(root)
    lines = [line for part in parts for line in _usable(part, root)]
    settings = {line.cell_key for line in lines}
    answers: dict[str, dict[str, dict[str, Any]]] = {setting: {} for setting in settings}
    failures: dict[str, dict[str, str]] = {setting: {} for setting in settings}
    for line in lines:
        row = line.row or {}
        if line.failed:
            failures[line.cell_key][str(row["id"])] = str(row["error"])
        else:
            answers[line.cell_key][str(row["id"])] = row
    if not lines:
        return None
    current = current_key(lines)
    if others := sum(len(found) for setting, found in answers.items() if setting != current):
        newer = " (the newer ones are fewer)" if current != lines[-1].cell_key else ""
        LOG.warning(f"{name}: ignored {others} rows of runs with other settings{newer}")
    failed = {id: why for id, why in failures[current].items() if id not in answers[current]}
    if failed:
        first = " ".join(next(iter(failed.values())).split())
        LOG.warning(f"{name}: {len(failed)} examples failed, the first with: {first[:120]}")
    if not answers[current]:
        return None
    frame = pd.DataFrame([_slim(row) for row in answers[current].values()])
    benchmark, model, method = name.parts[:3]
    # Where a file lies counts, whatever its rows say: folders are renamed and merged. The file's
    # name carries a protocol other than the default; the row says so itself.
    where = {
        "benchmark": benchmark,
        "model": model,
        "method": method,
        "task": cell.stem.partition("@")[0],
        "failed": len(failed),
    }
    older = {"compress_on": "prompt", "seed": seeds.get(current)}
    missing = {field: value for field, value in older.items() if field not in frame}
    frame = frame.assign(**missing, **where, id=frame["id"].astype(str))
    frame["compress_on"] = frame["compress_on"].fillna("prompt")
    return frame.astype({"kv_size": "Int64", "seed": "Int64"})


def _slim(row: dict[str, Any]) -> dict[str, Any]:
    """The row; names inside its figures, which JSON makes anew for each row, become the same text.

    They are half of the memory of a large folder.
    """
    for field, value in row.items():
        if isinstance(value, dict):
            row[field] = {sys.intern(key): part for key, part in value.items()}
    return row


def _seeds(root: Path, files: Sequence[Path]) -> dict[str, int]:
    """Cell key -> the seed of the run that wrote it, as far as records say: older rows lack it."""
    found: dict[str, int] = {}
    for folder in sorted({path.parents[2] for path in files}):
        for record in run_records(folder):
            config, written = record.get("config"), record.get("files")
            seed = config.get("seed") if isinstance(config, dict) else None
            if isinstance(seed, int) and isinstance(written, dict):
                keys = [each[0] for each in written.values() if isinstance(each, list) and each]
                found |= {str(key): seed for key in keys}
    return found


def _usable(path: Path, root: Path) -> list[Line]:
    """The lines of a file that hold an answer or a failure; says how many do not, and why."""
    try:
        lines = [line for line in read_lines(path) if line.raw.strip()]
    except UserError as problem:
        LOG.warning(f"ignored: {problem.what}")
        return []
    usable = [line for line in lines if line.failed or (line.row and "score" in line.row)]
    if len(usable) < len(lines):
        odd = next(line for line in lines if line not in usable)
        why = odd.misfit or "unreadable lines"
        why = "its half-written last line" if odd.torn else f"line {odd.number}: {why}"
        lost = len(lines) - len(usable)
        LOG.warning(f"{path.relative_to(root)}: ignored {lost} of {len(lines)} lines: {why}")
    return usable


def _warn_of_other_prompts(frame: pd.DataFrame) -> None:
    """Methods are compared example by example, which only means something on one prompt."""
    example = ["benchmark", "model", "protocol", "compress_on", "task", "id"]
    kinds = frame.groupby(example)["prompt_tokens"].nunique()
    for (benchmark, model), count in (
        (kinds > 1).groupby(level=["benchmark", "model"]).sum().items()
    ):
        if count:
            LOG.warning(
                f"{benchmark}/{model}: {count} examples have prompts of different lengths under "
                "different methods; these runs had other settings and do not compare"
            )
