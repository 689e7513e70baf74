"""`paper` beside `corrected`."""

from pathlib import Path

import pandas as pd

from headkv.report.load import load_results
from headkv.report.tables.results import write_tables


def test_protocols_side_by_side(tmp_path: Path, qa_row, put_rows) -> None:
    old = {"protocol": "paper", "granularity": "query_head"}
    put_rows(tmp_path, "longbench/snapkv/64/qasper", [qa_row(i, 60.0 + i) for i in range(4)])
    before = [qa_row(i, 50.0 + i, **old) for i in range(4)]
    put_rows(tmp_path, "longbench/snapkv/64/qasper@paper-query_head", before)
    write_tables(load_results(tmp_path), tmp_path)
    line = pd.read_csv(tmp_path / "tables/longbench_llama3_8b_protocols.csv").iloc[0]
    assert line[["paper", "corrected", "difference", "n"]].tolist() == [51.5, 61.5, 10.0, 4]
