"""`headkv leaderboard`: a page, Markdown, CSV and JSON of methods by benchmarks by cache share."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from headkv.cli import Parser, front_door
from headkv.errors import UserError
from headkv.report.groups import BANNER, Group, grouped
from headkv.report.html.page import render_leaderboard
from headkv.report.leaderboard.standings import provenance, standings
from headkv.report.leaderboard.tables import board_tables
from headkv.report.load import load_results, results_folder
from headkv.report.tables.table import Table, markdown_text
from headkv.storage.atomic import write_bytes, write_json

FOLDER = "leaderboard"
INTRO = (
    "Methods by benchmarks by share of the cache, with intervals, paired tests against the best, "
    "seconds and bytes, from the rows of a results folder. leaderboard.csv has every number, "
    "leaderboard.json says which runs they are from; index.html filters."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes `leaderboard/{index.html,leaderboard.md,leaderboard.csv,leaderboard.json}`.

    Args:
        arguments: the command line; the process's own when None.

    Returns:
        The exit code.

    Raises:
        UserError: the folder has no usable results, or only sample rows.
    """
    parser = Parser(prog="headkv leaderboard", description=INTRO)
    parser.add_argument(
        "folder", nargs="?", help="results folder (default: results, or its sample)"
    )
    parser.add_argument("--out", type=Path, help="where to write (default: leaderboard/ in it)")
    parser.add_argument(
        "--sample", action="store_true", help="sample rows too, whose scores mean nothing"
    )
    parser.add_argument(
        "--note", default="", help="what readers have to know, told with the tables"
    )
    given = parser.parse_args(arguments)
    root = results_folder(given.folder)
    groups = chosen(grouped(load_results(root)), given.sample)
    folder = given.out or root / FOLDER
    for path in write_leaderboard(groups, root, folder, given.note):
        print(f"wrote {path}")
    return 0


def chosen(groups: Sequence[Group], sample: bool) -> list[Group]:
    """The groups that a leaderboard is of: without samples, unless they are asked for.

    Raises:
        UserError: nothing is left.
    """
    real = [group for group in groups if sample or not group.sample]
    if not real:
        raise UserError(
            "only sample rows are there, whose scores mean nothing",
            allowed="results of a benchmark",
            do="run one, for example `make demo`, or add --sample to see what it looks like",
        )
    return real


def write_leaderboard(
    groups: Sequence[Group], root: Path, folder: Path, note: str = ""
) -> list[Path]:
    """Writes the page, and what can be committed without the rows. The same rows, the same bytes.

    Args:
        groups: of `chosen`.
        root: the results folder, for its records of runs.
        folder: where to.
        note: what readers have to know.

    Returns:
        The files, in the order written.
    """
    lines, sources = standings(groups), provenance(groups, root)
    tables = board_tables(lines)
    banner = BANNER if any(group.sample for group in groups) else ""
    records = [
        {name: None if pd.isna(value) else value for name, value in line.items()}
        for line in lines.astype(object).to_dict("records")
    ]
    numbers = lines.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    texts = {
        "leaderboard.md": _markdown(tables, sources, banner, note),
        "leaderboard.csv": numbers,
        "index.html": render_leaderboard(lines, tables, sources, numbers, banner, note),
    }
    written = [write_bytes(folder / name, text.encode()) for name, text in texts.items()]
    about = {"sample": bool(banner), "note": note, "provenance": sources, "cells": records}
    return [*written, write_json(folder / "leaderboard.json", about)]


def _markdown(
    tables: Sequence[Table], sources: Sequence[dict[str, Any]], banner: str, note: str
) -> str:
    told = [f"{INTRO}\n", *([f"{markdown_text(note)}\n"] if note else [])]
    parts = ["# Leaderboard\n", *told, *(table.to_markdown() for table in tables)]
    if banner:
        parts.insert(1, f"**{banner}.**\n")
    rows = [
        [str(source[name]) for name in ("benchmark", "model", "examples", "rows")]
        + [", ".join(map(str, source["seeds"])), _commits(source), str(source["rows_sha256"])[:16]]
        for source in sources
    ]
    header = ["Benchmark", "Model", "Examples", "Rows", "Seeds", "Commits", "SHA-256 of rows"]
    return "\n".join([*parts, Table("Provenance", header, rows).to_markdown()])


def _commits(source: dict[str, Any]) -> str:
    commits = dict.fromkeys(str(run["commit"])[:10] for run in source["runs"] if run["commit"])
    return ", ".join(commits) or "not recorded"


if __name__ == "__main__":
    sys.exit(front_door(main))
