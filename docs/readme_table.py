"""Writes README's first table from the committed results/leaderboard/leaderboard.json.

`make leaderboard` runs it; tests/report/test_readme_table.py fails where the two differ.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from headkv.cli import front_door
from headkv.errors import UserError
from headkv.report.leaderboard.tables import board_cells
from headkv.report.names import budget_name, method_name, question_name
from headkv.report.tables.layout import score_ci
from headkv.report.tables.table import Table
from headkv.storage.atomic import write_bytes

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
BOARD = "results/leaderboard/leaderboard"
BEGIN, END = "<!-- make leaderboard: what stands here is written by it -->", "<!-- leaderboard -->"


def passage(about: dict[str, Any]) -> str:
    """The table of one share of the cache, of the methods that were asked everything there is.

    The share is the one with most columns, a benchmark and whether the question was seen.

    Args:
        about: content of `leaderboard.json`.
    """
    lines = pd.DataFrame(about["cells"])
    whole = lines[(lines["n"] == lines["expected"]) & (lines["model"] == lines["model"].iloc[0])]
    asked = whole[whole["budget"].notna()].groupby("budget")[["benchmark", "compress_on"]]
    counts = asked.apply(lambda each: len(each.drop_duplicates()))
    share = counts.index[counts == counts.max()].min()
    found: dict[str, dict[tuple[str, str], pd.Series]] = {}
    for key, mine in board_cells(whole):
        if pd.isna(key[-1]) or key[-1] == share:
            own = found.setdefault(method_name(*key[:3]), {})
            own |= {(cell["benchmark"], question_name(key[3])): cell for _, cell in mine.iterrows()}
    columns = sorted({each for cells in found.values() for each in cells}, key=_column)
    shown = {name: cells for name, cells in found.items() if len(cells) == len(columns)}
    rows = [[name, *(score_ci(own[each]) for each in columns)] for name, own in shown.items()]
    marks = [[own[each]["mark"] for each in columns] for own in shown.values()]
    bold = {(i, j + 1) for i, row in enumerate(marks) for j, mark in enumerate(row) if mark}
    header = ["Method", *(f"{benchmark}, {question}" for benchmark, question in columns)]
    table = Table("", header, rows, bold=frozenset(bold)).to_markdown().split("\n\n")[1]
    taken = {benchmark: own["n"] for own in found.values() for (benchmark, _), own in own.items()}
    held = whole.loc[whole["budget"] == share, "cache_share"]
    text = (
        f"Score in % [95 % confidence interval] of {lines['model'].iloc[0]} with about "
        f"{budget_name(share)} of the cache ({held.min():.1f} to {held.max():.1f} % held), the "
        "question seen or not seen when the prompt was compressed. Examples: "
        + ", ".join(f"{benchmark} {int(n)}" for benchmark, n in sorted(taken.items()))
        + ". Bold: the best of its column, and those that a paired test does not show to be worse."
    )
    note = f"{about['note']} " if about.get("note") else ""
    end = f"{note}All methods, shares, tests, seconds and bytes: [leaderboard]({BOARD}.md)."
    return "\n\n".join([BEGIN, text, table, end, END])


def replaced(text: str, new: str) -> str:
    """A text with another passage between the marks.

    Raises:
        UserError: it has no such marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(
            "README.md has no place for the table",
            allowed=f"{BEGIN} and {END}, each on a line",
            do="put them where it goes",
        )
    return before + new + after


def _column(column: tuple[str, str]) -> tuple[str, bool]:
    return column[0], column[1] != "seen"


def main() -> int:
    """Writes the passage, if there is a leaderboard.

    Returns:
        The exit code.
    """
    path = ROOT / f"{BOARD}.json"
    if path.is_file():
        new = passage(json.loads(path.read_text(encoding="utf-8")))
        text = replaced(README.read_text(encoding="utf-8"), new)
        print(f"wrote {write_bytes(README, text.encode())}")
    return 0


if __name__ == "__main__":
    sys.exit(front_door(lambda _: main()))
