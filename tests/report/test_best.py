"""Which cells are marked."""

from pathlib import Path

import pytest

from headkv.report.load import load_results
from headkv.report.stats.best import marked
from headkv.report.stats.summary import ALL_TASKS, summarise
from headkv.report.tables.results import write_tables


def test_best_and_not_worse_are_marked(tmp_path: Path, qa_row, put_rows, read_table) -> None:
    hits = {"headkv_r2": 20, "snapkv": 18, "adakv": 2}
    for method, n in hits.items():
        rows = [qa_row(i, 100.0 * (i < n)) for i in range(20)]
        put_rows(tmp_path, f"needle/{method}/64/single", rows)
    put_rows(tmp_path, "needle/fullkv/full/single", [qa_row(i, 100.0, None) for i in range(20)])
    rows = load_results(tmp_path)
    cells = marked(rows, summarise(rows)).set_index(["method", "task"])
    marks = {method: cells.loc[(method, ALL_TASKS), "mark"] for method in [*hits, "fullkv"]}
    assert marks == {"headkv_r2": "best", "snapkv": "not worse", "adakv": "", "fullkv": ""}
    # McNemar 2 of 2: p = 0.5; 18 of 18: 2^-17, times two tests
    assert cells.loc[("snapkv", ALL_TASKS), "p_best"] == pytest.approx(0.5)
    assert cells.loc[("adakv", ALL_TASKS), "p_best"] == pytest.approx(2 * 2**-17)
    write_tables(rows, tmp_path)
    assert "**100.0 [83.2, 100.0]**" in read_table(tmp_path, "needle_llama3_8b.md")
    assert r"\textbf{100.0 {[}83.2, 100.0{]}}" in read_table(tmp_path, "needle_llama3_8b.tex")
    assert "Bold: the best" in read_table(tmp_path, "needle_llama3_8b.md")
