"""Puts the page together: template, style, script, figures and data in one file."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from jinja2.utils import htmlsafe_json_dumps

from headkv.report.groups import by_model
from headkv.report.html import content
from headkv.report.stats.paired import paired_tests
from headkv.report.stats.summary import summarise
from headkv.report.tables.comparisons import paired_table
from headkv.report.tables.scores import accuracy_table, memory_table, task_table
from headkv.report.tables.table import Table
from headkv.storage.atomic import write_bytes

HERE = Path(__file__).parent
SCRIPTS = ["page.js", "examples.js", "heatmap.js", "inspector.js"]
_NAMED = {"accuracy": "accuracy against KV size", "heatmap": "accuracy by depth and length"}


def write_page(rows: pd.DataFrame, output_dir: str | Path) -> Path:
    """Writes `report/index.html`. The same results give the same bytes.

    Args:
        rows: as `load_results` gives them.
        output_dir: the results folder; figures are made if it has none or older ones.

    Returns:
        The file.
    """
    root = Path(output_dir)
    groups = [_group(root, *key, part) for key, part in by_model(rows)]
    _embed_figures(rows, root, groups)
    return write_bytes(root / "report" / "index.html", render(groups).encode())


def render(groups: Sequence[Mapping[str, Any]]) -> str:
    """The page. Text is escaped by the template, data as JSON in which no tag can end or begin.

    Only the script whose hash the page's own policy names may run, and nothing may be fetched.

    Args:
        groups: one a benchmark and model.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=ChainableUndefined,  # a record of another version may lack anything
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json"] = lambda value: htmlsafe_json_dumps(
        value, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    environment.filters["text_columns"] = _text_columns
    script = "\n".join((HERE / name).read_text() for name in SCRIPTS)
    sha = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html.j2").render(
        groups=groups, script=script, sha=sha, style=(HERE / "page.css").read_text()
    )


def _text_columns(table: Table) -> list[bool]:
    """Which columns hold words, and so stand to the left."""
    columns = zip(*table.rows, strict=True) if table.rows else [[""] for _ in table.header]
    return [not any(re.match(r"[<+-]?\d", cell) for cell in column) for column in columns]


def _group(root: Path, benchmark: str, model: str, rows: pd.DataFrame) -> dict[str, Any]:
    folder, summary = root / benchmark / model, summarise(rows)
    records = content.records_of(folder)
    inspections, left_out = content.inspections_of(folder)
    prompts = content.prompts_of(folder, inspections)
    return {
        "key": f"{benchmark}_{model}",
        "title": f"{benchmark}, {model}",
        "folder": f"{benchmark}/{model}",
        "scores": content.scores_of(summary, records),
        "tables": _tables(rows, summary, benchmark, model),
        "figures": [],
        "records": records,
        "examples": content.examples_of(rows, prompts),
        "inspections": inspections,
        "inspected": [{"task": i["task"], "id": i["id"]} for i in inspections],
        "inspections_left_out": left_out,
    }


def _tables(rows: pd.DataFrame, summary: pd.DataFrame, benchmark: str, model: str) -> list[Table]:
    of = (summary, benchmark, model)
    tables = [accuracy_table(*of), memory_table(*of)]
    if summary["task"].nunique() > 2:  # one task and its mean over tasks are the same table
        tables.insert(1, task_table(*of))
    return [*tables, paired_table(paired_tests(rows), benchmark, model)]


def _embed_figures(rows: pd.DataFrame, root: Path, groups: list[dict[str, Any]]) -> None:
    """Gives every figure to the benchmark and model that its name begins with."""
    folder = root / "figures"
    newest = max(path.stat().st_mtime for path in root.glob("*/*/*/*/*.jsonl"))
    drawn = [path.stat().st_mtime for path in folder.glob("*.png")]
    if not drawn or min(drawn) < newest:
        # Matplotlib takes a second to load.
        from headkv.report.figures.accuracy import write_figures

        write_figures(rows, root)
    for path in sorted(folder.glob("*.png")):
        owners = [group for group in groups if path.stem.startswith(f"{group['key']}_")]
        if owners:
            owner = max(owners, key=lambda group: len(group["key"]))
            name = path.stem.removeprefix(f"{owner['key']}_").replace("_", " ")
            source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
            owner["figures"].append(
                {"title": f"{owner['title']}: {_NAMED.get(name, name)}", "source": source}
            )
