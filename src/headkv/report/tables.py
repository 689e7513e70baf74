"""Accuracy, memory and paired tests of a benchmark, as CSV, Markdown, LaTeX and plain text."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from headkv.report.stats import ALL_TASKS, VARIANT, paired_tests, summarise
from headkv.report.style import Table, method_name, method_order, size_name, write_atomic

NOT_RUN = "-"
INCOMPLETE = "n/N: only n of N examples are there, so no number is given."


def write_tables(rows: pd.DataFrame, output_dir: str | Path) -> list[Path]:
    """Writes `tables/<benchmark>_<model>.{csv,md,tex}` and `..._tests.{csv,md,tex}`.

    The CSV files hold every number in long form; the others are for reading. The same rows give
    the same bytes.

    Args:
        rows: as `load_results` gives them.
        output_dir: the results folder.

    Returns:
        The files, in the order written.
    """
    folder, written = Path(output_dir) / "tables", []
    for (benchmark, model), part in by_model(rows):
        cells = summarise(part)
        tables = [accuracy_table(cells, benchmark, model), memory_table(cells, benchmark, model)]
        if cells["task"].nunique() > 2:  # one task and its mean over tasks are the same table
            tables.insert(1, task_table(cells, benchmark, model))
        tests = paired_tests(part)
        name = f"{benchmark}_{model}"
        written += _write(folder, name, _labelled(cells, benchmark, model), tables)
        written += _write(
            folder,
            f"{name}_tests",
            _labelled(tests, benchmark, model),
            [paired_table(tests, benchmark, model)],
        )
    return written


def print_table(rows: pd.DataFrame, out: TextIO | None = None) -> None:
    """Prints accuracy and cache share, method by KV size, for each benchmark and model.

    Args:
        rows: as `load_results` gives them.
        out: where to; standard output when None.
    """
    for (benchmark, model), part in by_model(rows):
        cells = summarise(part)
        for table in (
            accuracy_table(cells, benchmark, model),
            share_table(cells, benchmark, model),
        ):
            print(table.to_text(), file=out or sys.stdout)


def by_model(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """The rows of each benchmark and model."""
    for (benchmark, model), part in rows.groupby(["benchmark", "model"]):
        yield (str(benchmark), str(model)), part


def accuracy_table(cells: pd.DataFrame, benchmark: str, model: str) -> Table:
    """Mean score with its interval; a line a method, a column a KV size."""
    whole = cells[cells["task"] == ALL_TASKS]
    tasks = cells["task"].nunique() - 1
    mean = f"mean of {tasks} tasks" if tasks > 1 else "mean"
    title = f"{benchmark}, {model}: accuracy in %, {mean} [95% CI], n = {whole['expected'].max()}"
    return _grid(
        whole,
        title,
        lambda cell: f"{cell['accuracy']:.1f} [{cell['ci_low']:.1f}, {cell['ci_high']:.1f}]",
    )


def share_table(cells: pd.DataFrame, benchmark: str, model: str) -> Table:
    """Bytes held as a share of the full cache's, and in MB; a line a method."""
    title = f"{benchmark}, {model}: cache held, in % of the full cache (and MB of 10^6 bytes)"
    return _grid(
        cells[cells["task"] == ALL_TASKS],
        title,
        lambda cell: f"{cell['cache_share']:.1f} ({cell['cache_mb']:.2f})",
    )


def task_table(cells: pd.DataFrame, benchmark: str, model: str) -> Table:
    """Mean score of each task; a line a method and KV size, a column a task."""
    tasks = [*sorted(set(cells["task"]) - {ALL_TASKS}), ALL_TASKS]
    rows = []
    for key, part in in_order(cells, [*VARIANT, "kv_size"]):
        shown = {cell["task"]: cell for _, cell in part.iterrows()}
        rows.append(
            [method_name(*key[:3]), size_name(key[3])]
            + [_show(shown.get(task), lambda cell: f"{cell['accuracy']:.1f}") for task in tasks]
        )
    title = f"{benchmark}, {model}: accuracy in %, task by task"
    return Table(title, ["Method", "Cache", *tasks], rows, _note(rows))


def memory_table(cells: pd.DataFrame, benchmark: str, model: str) -> Table:
    """What each cell kept, measured on the cache; a line a method and KV size."""
    whole = cells[cells["task"] == ALL_TASKS]
    rows = []
    for key, part in in_order(whole, [*VARIANT, "kv_size"]):
        cell = part.iloc[0]
        measured = [
            _show(cell, lambda cell: f"{cell['kept_tokens']:,.0f}"),
            _show(cell, lambda cell: f"{cell['cache_mb']:.2f}"),
            _show(cell, lambda cell: f"{cell['cache_share']:.1f}"),
        ]
        rows.append([method_name(*key[:3]), size_name(key[3]), *measured])
    title = f"{benchmark}, {model}: cache held after compression, mean of an example"
    header = ["Method", "Cache", "Kept tokens", "MB", "% of full"]
    counted = "Kept tokens are summed over layers and stored heads; 1 MB is 10^6 bytes."
    return Table(title, header, rows, f"{counted} {_note(rows)}".strip())


def paired_table(tests: pd.DataFrame, benchmark: str, model: str) -> Table:
    """The paired tests, ready to read."""
    header = ["Cache", "A", "B", "n", "A - B [95% CI]", "A better", "B better", "p", "p (Holm)"]
    rows = []
    for _, test in tests.iterrows():
        setting = (test["protocol"], test["granularity"])
        shown = [size_name(test["kv_size"])]
        shown += [method_name(test[side], *setting) for side in ("first", "second")]
        if test["n"] < test["expected"]:
            rows.append([*shown, f"{test['n']}/{test['expected']}", *[NOT_RUN] * 5])
            continue
        interval = f"{test['difference']:+.1f} [{test['ci_low']:+.1f}, {test['ci_high']:+.1f}]"
        counts = [f"{test[f'{side}_better']:.0f}" for side in ("first", "second")]
        p_values = [_p(test["p"]), _p(test["p_holm"])]
        rows.append([*shown, f"{test['n']}", interval, *counts, *p_values])
    kinds = {"McNemar": "exact McNemar", "permutation": "paired permutation (scores not hit/miss)"}
    used = " and ".join(kinds[kind] for kind in sorted(set(tests["test"]) - {""}))
    title = f"{benchmark}, {model}: paired tests on the same examples"
    note = f"Test: {used or 'none yet'}, two-sided. Holm: over all tests of one cache size."
    return Table(title, header, rows, f"{note} {_note(rows)}".strip())


def _grid(cells: pd.DataFrame, title: str, show: Callable[[pd.Series], str]) -> Table:
    """A line a method, a column a KV size, the full cache last."""
    sizes = sorted(cells["kv_size"].dropna().unique())
    columns = [size_name(size) for size in sizes]
    if cells["kv_size"].isna().any():
        columns.append(size_name(None))
    rows = []
    for key, part in in_order(cells, VARIANT):
        shown = {size_name(cell["kv_size"]): cell for _, cell in part.iterrows()}
        rows.append([method_name(*key), *[_show(shown.get(column), show) for column in columns]])
    return Table(title, ["Method", *columns], rows, _note(rows))


def _show(cell: pd.Series | None, show: Callable[[pd.Series], str]) -> str:
    if cell is None:
        return NOT_RUN
    return show(cell) if cell["n"] == cell["expected"] else f"{cell['n']}/{cell['expected']}"


def _note(rows: list[list[str]]) -> str:
    return INCOMPLETE if any("/" in text for row in rows for text in row[1:]) else ""


def _p(value: float) -> str:
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"


def in_order(cells: pd.DataFrame, keys: list[str]) -> list[tuple[Any, pd.DataFrame]]:
    """Groups by method in display order, then protocol, granularity and KV size."""
    groups = list(cells.groupby(keys, dropna=False))
    return sorted(groups, key=lambda group: _order(group[0]))


def _order(key: Any) -> tuple[Any, ...]:
    setting = (key[1] != "corrected", key[2] != "kv_head")
    return (*method_order(key[0]), *setting, *(-1 if pd.isna(k) else k for k in key[3:]))


def _labelled(frame: pd.DataFrame, benchmark: str, model: str) -> pd.DataFrame:
    frame = frame.copy()
    frame.insert(0, "benchmark", benchmark)
    frame.insert(1, "model", model)
    return frame


def _write(folder: Path, name: str, numbers: pd.DataFrame, tables: list[Table]) -> list[Path]:
    forms = {
        "csv": numbers.to_csv(index=False, float_format="%.6g", lineterminator="\n"),
        "md": "\n".join(table.to_markdown() for table in tables),
        "tex": "% needs \\usepackage{booktabs}\n" + "\n".join(t.to_latex() for t in tables),
    }
    return [write_atomic(folder / f"{name}.{form}", text.encode()) for form, text in forms.items()]
