"""The page of methods: its numbers are the leaderboard's, and what stands above them is kept."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from headkv.config import ROOT
from headkv.errors import UserError
from headkv.report.methods import MARK, costs, main


def test_the_page_has_every_cell_and_keeps_what_was_written_by_hand(tmp_path: Path) -> None:
    root = Path(shutil.copytree(ROOT / "results" / "sample", tmp_path / "results"))
    shutil.rmtree(root / "longbench_sample")
    page, cost = tmp_path / "methods.md", tmp_path / "cost.json"
    row = {"method": "snapkv", "percent": 0.61, "second_pass_percent": 0.0}
    cost.write_text(json.dumps({"methods": [row, {**row, "second_pass_percent": 219.6}]}))
    page.write_text(f"# By hand\n\n{MARK}\nold")
    assert main([str(root), "--out", str(page), "--cost", str(cost)]) == 0
    text = page.read_text()
    assert text.startswith(f"# By hand\n\n{MARK}\n") and "\nold" not in text
    assert "score in %" in text and "KL in nats" in text and "0.6 + 220" in text
    numbers = pd.read_csv(page.with_suffix(".csv"))
    cells = numbers[(numbers["method"] == "snapkv") & (numbers["kv_size"] == 64)]
    (cell,) = cells.to_dict("records")
    rows = [
        row
        for path in sorted((root / "needle" / cell["model"] / "snapkv" / "64").glob("*.jsonl"))
        for row in map(json.loads, path.read_text().splitlines())
    ]
    assert cell["accuracy"] == pytest.approx(sum(row["score"] for row in rows) / len(rows), abs=1)
    kl = [row["fidelity"]["kl"] for row in rows if row["fidelity"]["kl"] is not None]
    assert cell["kl"] == pytest.approx(sum(kl) / len(kl), rel=0.1)
    assert f"{cell['accuracy']:.1f} [{cell['ci_low']:.1f}, {cell['ci_high']:.1f}]" in text
    before = page.read_bytes()
    assert main([str(root), "--out", str(page), "--cost", str(cost)]) == 0
    assert page.read_bytes() == before


def test_costs_are_those_of_the_bench_or_refused(tmp_path: Path) -> None:
    assert costs(tmp_path / "none.json") == {}
    (tmp_path / "wrong.json").write_text('{"methods": [{"method": "snapkv"}]}')
    with pytest.raises(UserError, match="costs of compression"):
        costs(tmp_path / "wrong.json")
