"""Fewer bits and more entries against 16 bits in the same bytes."""

from pathlib import Path

import pytest

from headkv.report.load import load_results
from headkv.report.stats.equal_bytes import equal_bytes
from headkv.report.stats.significance import mcnemar
from headkv.report.stats.summary import summarise
from headkv.report.tables.results import write_tables

CELLS = {  # method, KV size -> bytes, hits of ten examples
    ("snapkv", 64): (1000, 3),
    ("snapkv", 128): (2000, 5),
    ("snapkv+8bit", 108): (1010, 6),
    ("snapkv+4bit", 212): (980, 9),
    ("snapkv+4bit", 450): (1500, 9),  # the bytes of nothing with 16 bits
    ("headkv_r2", 64): (1000, 9),
    ("fullkv+4bit", None): (2500, 10),
}


def test_bits_are_compared_where_bytes_are_equal(
    tmp_path: Path, make_row, write_rows, read_table
) -> None:
    for (method, size), (held, hits) in CELLS.items():
        rows = [
            make_row(
                method,
                size,
                id=str(n),
                score=100.0 * (n < hits),
                cache_bytes=held,
                fidelity={
                    "reference_logprob": -1.0,
                    "reference_logprob_full": -1.0,
                    "kl": 0.25,
                    "agreement": 1.0,
                },
            )
            for n in range(10)
        ]
        write_rows(tmp_path, method, size, rows)
    rows = load_results(tmp_path)
    found = equal_bytes(rows, summarise(rows))
    assert found[["entries_16", "bits", "kv_size"]].to_numpy().tolist() == [
        [64, 16, 64],
        [64, 8, 108],
        [64, 4, 212],
    ]
    eight, four = found.iloc[1], found.iloc[2]
    assert (four["difference"], four["better"], four["worse"]) == (60, 6, 0)
    three, nine = ([100.0 * (n < hits) for n in range(10)] for hits in (3, 9))
    assert four["p"] == pytest.approx(mcnemar(nine, three)) == pytest.approx(2 / 2**6)
    assert four["p_holm"] == pytest.approx(4 / 2**6) and eight["p_holm"] == eight["p"]
    write_tables(rows, tmp_path)
    text = read_table(tmp_path, "needle_tiny_model_bytes.md")
    assert "| SnapKV+4bit |" not in text and "| SnapKV | seen | 4 | 212 |" in text
    assert "6, 0" in text and "| 0.250 | 1.0000 |" in text
    assert four["kl_difference"] == 0 and four["kl_p_holm"] == 1
    (tmp_path / "tables" / "needle_tiny_model_bytes.md").unlink()
    for path in tmp_path.glob("needle/*/*bit*/*/*.jsonl"):
        path.unlink()
    write_tables(load_results(tmp_path), tmp_path)
    assert not (tmp_path / "tables" / "needle_tiny_model_bytes.md").exists()
