"""README's first table is the committed leaderboard's, number by number."""

import json
import re
import runpy

import pandas as pd
import pytest

from headkv.config import ROOT
from headkv.errors import UserError
from headkv.report.names import method_name, question_name

WRITER = runpy.run_path(str(ROOT / "docs" / "readme_table.py"))
BOARD = ROOT / "results" / "leaderboard"


def test_it_is_what_the_target_writes() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    new = WRITER["passage"](json.loads((BOARD / "leaderboard.json").read_text(encoding="utf-8")))
    assert WRITER["replaced"](text, new) == text, "run `make leaderboard`"
    with pytest.raises(UserError, match="no place"):
        WRITER["replaced"]("# README", new)


def test_every_number_stands_in_the_committed_csv() -> None:
    """Read back from README's text, not from what wrote it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition(WRITER["BEGIN"])[2].partition(WRITER["END"])[0]
    share = float(re.search(r"about ([\d.]+) % of the cache", table)[1])  # type: ignore[index]
    lines = pd.read_csv(BOARD / "leaderboard.csv")
    lines = lines[lines["kv_size"].isna() | lines["budget"].round(2).eq(share)]
    header, _, *rows = [
        [cell.strip(" *") for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("|")
    ]
    assert len(rows) > 3 and rows[0][0] == "FullKV"
    known = {}
    for line in lines.itertuples():
        name = method_name(line.method, line.protocol, line.granularity)
        column = f"{line.benchmark}, {question_name(line.compress_on)}"
        shown = f"{line.accuracy:.1f} [{line.ci_low:.1f}, {line.ci_high:.1f}]"
        known.setdefault((name, column), set()).add(shown)
    for name, *cells in rows:
        for column, cell in zip(header[1:], cells, strict=True):
            assert cell in known[name, column]
