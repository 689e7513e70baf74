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

from headkv.report.groups import BANNER, Group, Rows, grouped
from headkv.report.html import content
from headkv.report.names import budget_name, question_name
from headkv.report.stats.best import LEGEND
from headkv.report.tables.comparisons import paired_table
from headkv.report.tables.scores import accuracy_table, memory_table, task_table
from headkv.report.tables.settings import chosen_settings, settings_table
from headkv.report.tables.table import Table
from headkv.storage.atomic import write_bytes

HERE = Path(__file__).parent
SCRIPTS = [
    "tables.js",
    "theme.js",
    "page.js",
    "downloads.js",
    "figures.js",
    "examples.js",
    "heatmap.js",
    "inspector.js",
]
BOARD_SCRIPTS = ["tables.js", "theme.js", "downloads.js", "leaderboard.js"]
_NAMED = {
    "accuracy": "score against KV size",
    "bytes": "score against bytes held",
    "heatmap": "score by depth or task, and length",
}


def write_page(rows: Rows, output_dir: str | Path) -> Path:
    """Writes `report/index.html`. The same results give the same bytes.

    Args:
        rows: as `load_results` gives them, or `grouped`.
        output_dir: the results folder; figures are made if it has none or older ones.

    Returns:
        The file.
    """
    root, groups = Path(output_dir), grouped(rows)
    shown = [_group(root, group) for group in groups]
    _embed_figures(groups, root, shown)
    return write_bytes(root / "report" / "index.html", render(shown).encode())


def render(groups: Sequence[Mapping[str, Any]]) -> str:
    """The page. Text is escaped by the template, data as JSON in which no tag can end or begin.

    Args:
        groups: one a benchmark and model.
    """
    return _rendered("page.html.j2", SCRIPTS, groups=groups)


def render_leaderboard(
    lines: pd.DataFrame,
    tables: Sequence[Table],
    sources: Sequence[Mapping[str, Any]],
    numbers: str,
    banner: str,
    note: str = "",
) -> str:
    """The leaderboard's page: its tables, with filters by model, question, share and benchmark.

    Args:
        lines: of `standings`.
        tables: of `board_tables`.
        sources: where the numbers are from.
        numbers: the lines as CSV.
        banner: a warning above everything, or nothing.
        note: what readers have to know, or nothing.
    """
    budgets = sorted(lines["budget"].dropna().unique())
    choices = {
        "model": sorted(lines["model"].unique()),
        "question": [question_name(on) for on in sorted(set(lines["compress_on"]), reverse=True)],
        "budget": [*map(budget_name, budgets)],
        "benchmark": sorted(lines["benchmark"].unique()),
    }
    about = {"tables": tables, "sources": sources, "csv": numbers, "banner": banner, "note": note}
    return _rendered("leaderboard.html.j2", BOARD_SCRIPTS, choices=choices, **about)


def _rendered(template: str, scripts: Sequence[str], **values: Any) -> str:
    """A page. Only the script whose hash its own policy names may run, and nothing may be fetched.

    Args:
        template: its file.
        scripts: files that make up its script.
        values: what the template shows.
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
    environment.filters["partial"] = environment.tests["partial"] = _partial
    script = "\n".join((HERE / name).read_text() for name in scripts)
    sha = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        script=script, sha=sha, style=(HERE / "page.css").read_text(), **values
    )


def _text_columns(table: Table) -> list[bool]:
    """Which columns hold words, and so stand to the left."""
    columns = zip(*table.rows, strict=True) if table.rows else [[""] for _ in table.header]
    return [not any(re.match(r"[<+-]?\d", cell) for cell in column) for column in columns]


def _partial(row: Sequence[str]) -> bool:
    """Whether a row has a cell that lacks examples."""
    return any(re.match(r"\d+/\d+", cell) for cell in row)


def _group(root: Path, group: Group) -> dict[str, Any]:
    # LongBench-E and the like are groups of their own in the folder of their benchmark.
    benchmark = str(group.rows["benchmark"].iloc[0])
    folder = root / benchmark / group.model
    records = content.records_of(folder)
    inspections, left_out = content.inspections_of(folder)
    prompts = content.prompts_of(folder, inspections)
    return {
        "key": group.key,
        "title": f"{group.benchmark}, {group.model}",
        "banner": BANNER if group.sample else "",
        "folder": f"{benchmark}/{group.model}",
        "scores": content.scores_of(group.cells, records),
        "tables": _tables(group),
        "legend": LEGEND,
        "figures": [],
        "csv": group.cells.to_csv(index=False, float_format="%.6g", lineterminator="\n"),
        "records": records,
        "examples": content.examples_of(group.rows, prompts),
        "inspections": inspections,
        "inspected": [{"task": i["task"], "id": i["id"]} for i in inspections],
        "inspections_left_out": left_out,
    }


def _tables(group: Group) -> list[Table]:
    of = (group.benchmark, group.model)
    tables = [accuracy_table(group.cells, *of), memory_table(group.cells, *of)]
    if group.cells["task"].nunique() > 2:  # one task and its mean over tasks are the same table
        tables.insert(1, task_table(group.cells, *of))
    chosen = chosen_settings(group.rows)
    if len(chosen):
        tables.append(settings_table(chosen, *of))
    return [*tables, paired_table(group.tests, *of)]


def _embed_figures(groups: Sequence[Group], root: Path, shown: list[dict[str, Any]]) -> None:
    """Gives every figure, its dark copy and its PDF to the group that its name begins with."""
    folder = root / "figures"
    newest = max(path.stat().st_mtime for path in root.glob("*/*/*/*/*.jsonl"))
    for dark, place in ((False, folder), (True, folder / "dark")):
        drawn = [path.stat().st_mtime for path in place.glob("*.png")]
        if not drawn or min(drawn) < newest:
            # Matplotlib takes a second to load.
            from headkv.report.figures.results import write_figures

            write_figures(groups, root, dark=dark)
    for path in sorted(folder.glob("*.png")):
        owners = [group for group in shown if path.stem.startswith(f"{group['key']}_")]
        if not owners:
            continue
        owner = max(owners, key=lambda group: len(group["key"]))
        name = path.stem.removeprefix(f"{owner['key']}_").replace("_", " ")
        others = {
            "dark": _data(folder / "dark" / path.name, "image/png"),
            "pdf": _data(path.with_suffix(".pdf"), "application/pdf"),
        }
        owner["figures"].append(
            {
                "name": path.stem,
                "title": f"{owner['title']}: {_NAMED.get(name, name)}",
                "source": _data(path, "image/png"),
                "others": {kind: data for kind, data in others.items() if data},
            }
        )


def _data(path: Path, kind: str) -> str:
    """A file as an address that holds it; empty where there is none."""
    if not path.exists():
        return ""
    return f"data:{kind};base64," + base64.b64encode(path.read_bytes()).decode()
