"""Every table of a results folder, as text, CSV, Markdown and LaTeX."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from headkv.report.groups import Rows, grouped
from headkv.report.stats.equal_bytes import equal_bytes
from headkv.report.tables.comparisons import paired_table, protocol_table
from headkv.report.tables.equal_bytes import equal_bytes_table
from headkv.report.tables.fidelity import fidelity_table
from headkv.report.tables.lengths import part_table
from headkv.report.tables.scores import accuracy_table, share_table, task_table
from headkv.report.tables.settings import chosen_settings, settings_table
from headkv.report.tables.table import Table
from headkv.report.tables.table1 import table1, table1_parts
from headkv.storage.atomic import write_bytes


def write_tables(rows: Rows, output_dir: str | Path) -> list[Path]:
    """Writes `tables/<benchmark>_<model>*.{csv,md,tex}`.

    Scores and bytes; `_tests`: methods against each other; where there is something to show,
    `_lengths` (tasks in several parts), `_protocols` (`paper` against `corrected`), `_fidelity`,
    `_bytes` (fewer bits in the same bytes) and `_settings` (which were chosen); and
    `table1_<model>`, the layout of HeadKV's Table 1, with its figures for the models it has.
    The CSV files hold every number in long form; the others are for reading. The same rows give
    the same bytes.

    Args:
        rows: as `load_results` gives them, or `grouped`.
        output_dir: the results folder.

    Returns:
        The files, in the order written.
    """
    folder, written = Path(output_dir) / "tables", []
    groups = grouped(rows)
    for group in groups:
        of, cells = (group.benchmark, group.model), group.cells
        made: list[tuple[str, pd.DataFrame, list[Table]]] = [
            ("", cells, [accuracy_table(cells, *of), task_table(cells, *of)]),
            ("_tests", group.tests, [paired_table(group.tests, *of)]),
        ]
        if group.lengths is not None:
            made.append(("_lengths", group.lengths, [part_table(group.lengths, *of)]))
        if len(group.changes):
            made.append(("_protocols", group.changes, [protocol_table(group.changes, *of)]))
        if len(group.fidelity):
            made.append(("_fidelity", group.fidelity, [fidelity_table(group.fidelity, *of)]))
        equal = equal_bytes(group.rows, cells)
        if len(equal):
            made.append(("_bytes", equal, [equal_bytes_table(equal, *of)]))
        chosen = chosen_settings(group.rows)
        if len(chosen):
            made.append(("_settings", chosen, [settings_table(chosen, *of)]))
        for suffix, numbers, tables in made:
            written += _write(folder, group.key + suffix, _labelled(numbers, *of), tables)
    for name, part in table1_parts([group.rows for group in groups]):
        table, numbers = table1(part, name)
        numbers.insert(0, "model", name)
        written += _write(folder, f"table1_{name}", numbers, [table])
    return written


def tables_text(rows: Rows) -> str:
    """Accuracy and cache share, method by KV size, of each benchmark and model, for a terminal.

    Args:
        rows: as `load_results` gives them, or `grouped`.
    """
    tables = [
        make(group.cells, group.benchmark, group.model)
        for group in grouped(rows)
        for make in (accuracy_table, share_table)
    ]
    return "\n".join(table.to_text() for table in tables)


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
    return [write_bytes(folder / f"{name}.{form}", text.encode()) for form, text in forms.items()]
