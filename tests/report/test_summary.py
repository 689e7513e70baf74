"""What a cell scored and kept."""

from pathlib import Path

import pytest

from headkv.report.load import load_results
from headkv.report.stats.paired import paired_tests
from headkv.report.stats.summary import ALL_TASKS, summarise


def test_summary_measures_what_was_kept(results: Path) -> None:
    cells = summarise(load_results(results)).set_index(["method", "kv_size", "task"])
    cell = cells.loc[("snapkv", 128, ALL_TASKS)]
    assert (cell["n"], cell["expected"], cell["kept_tokens"]) == (40, 40, 90 * 128)
    assert cell["cache_mb"] == pytest.approx(256 * 90 * 128 / 1e6)
    assert cell["cache_share"] == pytest.approx(12.8)
    assert cell["ci_low"] <= cell["accuracy"] <= cell["ci_high"]


def test_tasks_weigh_the_same(tmp_path: Path, make_row, write_rows) -> None:
    for task, score, n in (("long", 100.0, 30), ("short", 0.0, 10)):
        rows = [make_row("snapkv", 64, id=str(i), score=score) for i in range(n)]
        write_rows(tmp_path, "snapkv", 64, rows, task=task)
    assert summarise(load_results(tmp_path)).set_index("task")["accuracy"].to_dict() == {
        "long": 100.0,
        "short": 0.0,
        ALL_TASKS: 50.0,
    }


def test_clozes_weigh_as_many_blanks_as_they_have(tmp_path: Path, qa_row, put_rows) -> None:
    for method, scores in (("snapkv", (100.0, 0.0)), ("headkv_r2", (0.0, 100.0))):
        rows = [qa_row(0, scores[0], blanks=3), qa_row(1, scores[1], blanks=1)]
        put_rows(tmp_path, f"loogle/{method}/64/shortdep_cloze", rows)
    rows = load_results(tmp_path)
    cells = summarise(rows).set_index(["method", "task"])
    assert cells.loc[("snapkv", "shortdep_cloze"), "accuracy"] == 75.0
    assert paired_tests(rows).iloc[0][["difference", "test"]].tolist() == [-50.0, "permutation"]
