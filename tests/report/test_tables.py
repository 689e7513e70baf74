"""The tables of a results folder: incomplete cells, failures, files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from headkv.report.load import load_results
from headkv.report.stats.paired import paired_tests
from headkv.report.stats.summary import ALL_TASKS, summarise
from headkv.report.tables.results import tables_text, write_tables


def test_incomplete_cells_are_counted_not_averaged(results: Path, needle_rows, write_rows) -> None:
    write_rows(results, "adakv", 128, needle_rows("adakv", 128)[:25])
    rows = load_results(results)
    cells = summarise(rows).set_index(["method", "kv_size", "task"])
    assert np.isnan(cells.loc[("adakv", 128, ALL_TASKS), "accuracy"])
    tests = paired_tests(rows)
    with_adakv = (tests["kv_size"] == 128) & tests[["first", "second"]].eq("adakv").any(axis=1)
    assert tests[with_adakv]["p"].isna().all()
    assert tests[~with_adakv]["p"].notna().all()
    text = tables_text(rows)
    (line,) = [line for line in text.splitlines() if line.startswith("Ada-KV")][:1]
    assert line.count("25/40") == 1
    assert "n/N" in text
    write_tables(rows, results)
    assert "25/40" in (results / "tables/needle_tiny_model.md").read_text()
    assert "25/40" in (results / "tables/needle_tiny_model_tests.tex").read_text()


def test_a_task_never_run_makes_the_mean_incomplete(
    tmp_path: Path, make_row, write_rows, read_table
) -> None:
    for method, tasks in (("snapkv", ["a", "b"]), ("adakv", ["a"])):
        for task in tasks:
            write_rows(
                tmp_path, method, 64, [make_row(method, 64)], benchmark="longbench", task=task
            )
    write_tables(load_results(tmp_path), tmp_path)
    lines = read_table(tmp_path, "longbench_tiny_model.md").splitlines()
    ada = [line for line in lines if line.startswith("| Ada-KV")]
    assert ada[0] == "| Ada-KV | seen | 1/2 |"
    assert (
        ada[1] == "| Ada-KV | seen | KV 64 | 1/2 | 1/2 | 1/2 | **100.0 [2.5, 100.0]** | - | 1/2 |"
    )


def test_failures_are_told_apart_from_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, qa_row, put_rows, read_table
) -> None:
    failure = {"id": "1", "error": "out of memory", "run_key": "a-1"}
    again = {"id": "0", "error": "out of memory", "run_key": "a-0"}
    put_rows(tmp_path, "needle/snapkv/64/single", [again, qa_row(0, 100.0), failure])
    write_tables(load_results(tmp_path), tmp_path)
    assert "1 examples failed, the first with: out of memory" in caplog.text
    assert "| SnapKV | seen | 1/2 (1 failed) |" in read_table(tmp_path, "needle_llama3_8b.md")


def test_tables_are_the_same_bytes_whatever_the_order_of_rows(results: Path) -> None:
    first = {path: path.read_bytes() for path in write_tables(load_results(results), results)}
    assert sorted(path.name for path in first) == sorted(
        f"needle_tiny_model{kind}.{form}"
        for kind in ("", "_tests")
        for form in ("csv", "md", "tex")
    )
    for path in results.glob("needle/**/*.jsonl"):
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    write_tables(load_results(results), results)
    assert {path: path.read_bytes() for path in first} == first
    assert len(list((results / "tables").iterdir())) == 6  # no temporary file is left


def test_csv_holds_the_numbers(results: Path) -> None:
    write_tables(load_results(results), results)
    numbers = pd.read_csv(results / "tables/needle_tiny_model.csv")
    assert len(numbers) == 2 * 13
    assert {
        "benchmark",
        "model",
        "method",
        "kv_size",
        "n",
        "accuracy",
        "ci_low",
        "ci_high",
        "kept_tokens",
        "cache_mb",
        "cache_share",
    } <= set(numbers.columns)
    tests = pd.read_csv(results / "tables/needle_tiny_model_tests.csv")
    assert len(tests) == 3 * 6
    assert (tests["p_holm"] >= tests["p"]).all()
