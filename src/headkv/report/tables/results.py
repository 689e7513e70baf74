"""Tables of results, as CSV, Markdown, LaTeX and plain text: scores, bytes, tests."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

import pandas as pd

from headkv.report.groups import CONTEXT, by_model
from headkv.report.names import method_name, size_name
from headkv.report.stats.best import LEGEND, marked
from headkv.report.stats.fidelity import fidelity_cells
from headkv.report.stats.lengths import part_cells, split_parts
from headkv.report.stats.paired import paired_tests
from headkv.report.stats.protocols import protocol_differences
from headkv.report.stats.summary import ALL_TASKS, VARIANT, summarise
from headkv.report.tables.layout import (  # fmt: skip
    HELD,
    INTERVAL,
    MEMORY,
    NOT_RUN,
    Columns,
    by_size,
    counted,
    held,
    in_order,
    layout_table,
    metrics,
    note,
    p_value,
    score_ci,
    show,
)
from headkv.report.tables.lengths import part_table
from headkv.report.tables.table import MarkedTable, Table
from headkv.report.tables.table1 import table1, table1_parts
from headkv.storage.atomic import write_atomic

__all__ = [
    "accuracy_table", "by_model", "in_order", "memory_table", "paired_table", "print_table",
    "share_table", "task_table", "write_tables",
]  # fmt: skip

KINDS = {"McNemar": "exact McNemar", "permutation": "paired permutation (scores not hit/miss)"}


def write_tables(rows: pd.DataFrame, output_dir: str | Path) -> list[Path]:
    """Writes `tables/<benchmark>_<model>*.{csv,md,tex}`.

    Scores and bytes; `_tests`: methods against each other; where there is something to show,
    `_lengths` (BABILong, LongBench-E), `_protocols` (`paper` against `corrected`) and `_fidelity`;
    and `table1_<model>`, the layout of HeadKV's Table 1, with its figures for the models it has.
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
        cells = marked(part, summarise(part))
        tests, name = paired_tests(part), f"{benchmark}_{model}"
        of = (benchmark, model)
        made: list[tuple[str, pd.DataFrame, list[Table]]] = [
            ("", cells, [accuracy_table(cells, *of), task_table(cells, *of)]),
            ("_tests", tests, [paired_table(tests, *of)]),
        ]
        if (parts := split_parts(part)) is not None:
            lengths = part_cells(parts)
            made.append(("_lengths", lengths, [part_table(lengths, *of)]))
        if len(changes := protocol_differences(part)):
            made.append(("_protocols", changes, [protocol_table(changes, *of)]))
        if len(measured := fidelity_cells(part)):
            made.append(("_fidelity", measured, [fidelity_table(measured, *of)]))
        for suffix, numbers, tables in made:
            written += _write(folder, name + suffix, _labelled(numbers, *of), tables)
    for name, part in table1_parts(rows):
        table, numbers = table1(part, name)
        numbers.insert(0, "model", name)
        written += _write(folder, f"table1_{name}", numbers, [table])
    return written


def print_table(rows: pd.DataFrame, out: TextIO | None = None) -> None:
    """Prints accuracy and cache share, method by KV size, for each benchmark and model.

    Args:
        rows: as `load_results` gives them.
        out: where to; standard output when None.
    """
    for (benchmark, model), part in by_model(rows):
        cells = marked(part, summarise(part))
        for table in (
            accuracy_table(cells, benchmark, model),
            share_table(cells, benchmark, model),
        ):
            print(table.to_text(), file=out or sys.stdout)


def accuracy_table(cells: pd.DataFrame, benchmark: str, model: str) -> MarkedTable:
    """Mean score with its interval; a line a method, a column a KV size."""
    tasks = cells["task"].nunique() - 1
    mean = f"mean of {tasks} tasks" if tasks > 1 else "mean"
    title = f"{_named(benchmark, model)}: score in %, {mean} [95% CI], {counted(cells)}"
    table = _grid(cells[cells["task"] == ALL_TASKS], title, score_ci)
    return table.under(f"{INTERVAL} {metrics(cells)}".strip())


def share_table(cells: pd.DataFrame, benchmark: str, model: str) -> MarkedTable:
    """Bytes held as a share of the full cache's, and in MB; a line a method."""
    title = f"{_named(benchmark, model)}: cache held, in % of the full cache (and MB of 10^6 bytes)"
    return _grid(
        cells[cells["task"] == ALL_TASKS].assign(mark=""),
        title,
        lambda cell: f"{cell['cache_share']:.1f} ({cell['cache_mb']:.2f})",
    )


def task_table(cells: pd.DataFrame, benchmark: str, model: str) -> MarkedTable:
    """Score of each task and what was held; a line a method and KV size, a column a task."""
    tasks = sorted(set(cells["task"]) - {ALL_TASKS})
    if len(tasks) == 1:  # it is its own mean
        cells = cells[cells["task"] == ALL_TASKS]
    columns = Columns(
        tasks if len(tasks) > 1 else [], "mean" if len(tasks) > 1 else tasks[0], cells
    )
    what = "task by task" if len(tasks) > 1 else tasks[0]
    title = f"{_named(benchmark, model)}: score in %, {what}, with the cache held"
    return layout_table(title, [columns])


def memory_table(cells: pd.DataFrame, benchmark: str, model: str) -> Table:
    """What each cell kept, measured on the cache; a line a method and KV size."""
    whole = cells[cells["task"] == ALL_TASKS]
    rows = [
        [method_name(*key[:3]), size_name(key[3]), *held(part.iloc[0])]
        for key, part in in_order(whole, [*VARIANT, "kv_size"])
    ]
    title = f"{_named(benchmark, model)}: cache held after compression, mean of an example"
    return Table(title, ["Method", "Cache", *MEMORY], rows, f"{HELD} {note(rows)}".strip())


def paired_table(tests: pd.DataFrame, benchmark: str, model: str) -> Table:
    """The paired tests, ready to read."""
    header = ["Cache", "A", "B", "n", "A - B [95% CI]", "A better", "B better", "p", "p (Holm)"]
    rows = []
    for _, test in tests.iterrows():
        setting = (test["protocol"], test["granularity"])
        shown = [size_name(test["kv_size"])]
        shown += [method_name(test[side], *setting) for side in ("first", "second")]
        rows.append([*shown, *_tested(test)])
    title = f"{_named(benchmark, model)}: paired tests on the same examples"
    told = f"{_used(tests)} Holm: over all tests of one cache size. {_DIFFERENCE} {note(rows)}"
    return Table(title, header, rows, told.strip())


def protocol_table(changes: pd.DataFrame, benchmark: str, model: str) -> Table:
    """`paper` beside `corrected`, ready to read."""
    header = [
        "Method", "Cache", "Task", "Storage: paper, corrected", "paper", "corrected", "n",
        "corrected - paper [95% CI]", "corrected better", "paper better", "p", "p (Holm)",
    ]  # fmt: skip
    rows = []
    for key, part in in_order(changes.assign(protocol="", granularity=""), [*VARIANT, "kv_size"]):
        for _, line in part.iterrows():
            storage = [line[f"{p}_granularity"].replace("_", " ") for p in ("paper", "corrected")]
            task = "mean" if line["task"] == ALL_TASKS else line["task"]
            means = [
                NOT_RUN if pd.isna(line[p]) else f"{line[p]:.1f}" for p in ("paper", "corrected")
            ]
            shown = [method_name(key[0]), size_name(key[3]), task, ", ".join(storage), *means]
            rows.append([*shown, *_tested(line)])
    title = f"{_named(benchmark, model)}: protocol paper and corrected on the same examples"
    told = f"{_used(changes)} Holm: over all lines of one task. {_DIFFERENCE} {note(rows)}"
    return Table(title, header, rows, told.strip())


def fidelity_table(measured: pd.DataFrame, benchmark: str, model: str) -> Table:
    """How far the model's predictions under the compressed cache are from the full one's."""
    whole = measured[measured["task"] == ALL_TASKS]
    rows = []
    for key, part in by_size(whole):
        line = part.iloc[0]
        shown = [method_name(*key[:3]), size_name(key[3]), f"{line['n']}/{line['expected']}"]
        if line["n"] == line["expected"]:
            shown[-1] = str(line["n"])
        for measure, digits in (("logprob_difference", 3), ("kl", 3), ("agreement", 1)):
            values = [line[f"{measure}{end}"] for end in ("", "_low", "_high")]
            sign = "+" if measure == "logprob_difference" else ""
            mean, low, high = (f"{value:{sign}.{digits}f}" for value in values)
            ends = "" if pd.isna(values[1]) else f" [{low}, {high}]"
            shown.append(NOT_RUN if pd.isna(values[0]) else mean + ends)
        rows.append(shown)
    several = "mean of the tasks' means " if measured["task"].nunique() > 2 else "mean "
    told = (
        "Log-prob difference: log-probability of the reference answer under the compressed cache "
        "minus under the full one, nats a token, 0 is no loss. KL: divergence of the predictions "
        "from the full cache's along its own answer, nats a token. Agreement: how often both find "
        "the same token likeliest, in %. The first token of an answer, which the prompt's last "
        f"position predicts, counts in the log-probability only. {INTERVAL} {note(rows)}"
    )
    title = f"{_named(benchmark, model)}: fidelity to the full cache, {several}[95% CI]"
    header = ["Method", "Cache", "n", "Log-prob difference", "KL", "Agreement"]
    return Table(title, header, rows, told.strip())


_DIFFERENCE = "[95% CI]: bootstrap over examples; better: examples with a higher score."


def _used(tests: pd.DataFrame) -> str:
    used = " and ".join(KINDS[kind] for kind in sorted(set(tests["test"].dropna()) - {""}))
    return f"Test: {used or 'none yet'}, two-sided."


def _tested(test: pd.Series) -> list[str]:
    """n, difference, discordant examples and p values of one line of tests."""
    if test["n"] < test["expected"]:
        return [f"{test['n']}/{test['expected']}", *[NOT_RUN] * 5]
    low, high = test["ci_low"], test["ci_high"]
    ends = "" if pd.isna(low) else f" [{low:+.1f}, {high:+.1f}]"
    counts = [f"{test[f'{side}_better']:.0f}" for side in ("first", "second")]
    p_values = [p_value(test["p"]), p_value(test["p_holm"])]
    return [f"{test['n']}", f"{test['difference']:+.1f}{ends}", *counts, *p_values]


def _grid(cells: pd.DataFrame, title: str, form: Callable[[pd.Series], str]) -> MarkedTable:
    """A line a method, a column a KV size, the full cache last."""
    columns = [size_name(size) for size in sorted(cells["kv_size"].dropna().unique())]
    if cells["kv_size"].isna().any():
        columns.append(size_name(None))
    rows: list[list[str]] = []
    bold = set()
    for key, part in in_order(cells, VARIANT):
        shown = {size_name(cell["kv_size"]): cell for _, cell in part.iterrows()}
        for place, column in enumerate(columns, 1):
            if column in shown and shown[column].get("mark", ""):
                bold.add((len(rows), place))
        rows.append([method_name(*key), *[show(shown.get(column), form) for column in columns]])
    header = ["Method", *columns]
    return MarkedTable(title, header, rows, note(rows), frozenset(bold), legend=LEGEND)


def _named(benchmark: str, model: str) -> str:
    """What a caption calls the rows of `by_model`."""
    named = f"{benchmark}, {model.removesuffix(CONTEXT)}"
    asked = " (compressed before the question was seen)" if model.endswith(CONTEXT) else ""
    return named + asked


def _labelled(frame: pd.DataFrame, benchmark: str, model: str) -> pd.DataFrame:
    frame = frame.copy()
    frame.insert(0, "benchmark", benchmark)
    frame.insert(1, "model", model)
    return frame


def _write(folder: Path, name: str, numbers: pd.DataFrame, tables: Sequence[Table]) -> list[Path]:
    forms = {
        "csv": numbers.to_csv(index=False, float_format="%.6g", lineterminator="\n"),
        "md": "\n".join(table.to_markdown() for table in tables),
        "tex": "% needs \\usepackage{booktabs,graphicx}\n"
        + "\n".join(table.to_latex() for table in tables),
    }
    return [write_atomic(folder / f"{name}.{form}", text.encode()) for form, text in forms.items()]
