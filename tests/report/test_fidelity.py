"""Distances from the full cache, where rows have them."""

from pathlib import Path
from typing import Any

from headkv.report.load import load_results
from headkv.report.tables.results import write_tables


def test_fidelity(tmp_path: Path, qa_row, put_rows, read_table) -> None:
    def measured(kl: float | None) -> dict[str, Any]:
        return {
            "reference_logprob": -2.0,
            "reference_logprob_full": -1.5,
            "kl": kl,
            "agreement": None if kl is None else 0.5,
        }

    rows = [qa_row(i, 0.0, fidelity=measured(kl)) for i, kl in enumerate((0.1, 0.3, None))]
    put_rows(tmp_path, "needle/snapkv/64/single", rows)
    put_rows(tmp_path, "needle/adakv/64/single", [*rows[:1], qa_row(1, 0.0), qa_row(2, 0.0)])
    write_tables(load_results(tmp_path), tmp_path)
    text = read_table(tmp_path, "needle_llama3_8b_fidelity.md")
    assert "| SnapKV | seen | KV 64 | 3 | -0.500 | 0.200 [" in text
    assert "| Ada-KV | seen | KV 64 | 1/3 | - | - | - |" in text
