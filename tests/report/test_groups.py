"""Which rows are kept apart from one another, and what is said of samples."""

from pathlib import Path

from headkv.report.groups import BANNER, by_model, grouped
from headkv.report.load import load_results
from headkv.report.stats.paired import paired_tests
from headkv.report.stats.summary import ALL_TASKS
from headkv.report.tables.results import tables_text


def test_question_seen_or_not_is_a_cell_of_its_own(tmp_path: Path, qa_row, put_rows) -> None:
    """The two stand in one table and are never averaged, marked or tested together."""
    for method, scores in (("snapkv", (100.0, 0.0)), ("headkv_r2", (0.0, 100.0))):
        put_rows(tmp_path, f"needle/{method}/64/single", [qa_row(i, scores[0]) for i in range(9)])
        unseen = [qa_row(i, scores[1], compress_on="context") for i in range(9)]
        put_rows(tmp_path, f"needle/{method}/64/single@corrected-kv_head-context", unseen)
    rows = load_results(tmp_path)
    (group,) = grouped(rows)
    cells = group.cells[group.cells["task"] == ALL_TASKS].set_index(["method", "compress_on"])
    assert cells["accuracy"].to_dict() == {
        ("snapkv", "prompt"): 100.0,
        ("snapkv", "context"): 0.0,
        ("headkv_r2", "prompt"): 0.0,
        ("headkv_r2", "context"): 100.0,
    }
    assert cells.index[cells["mark"] == "best"].tolist() == [
        ("headkv_r2", "context"),
        ("snapkv", "prompt"),
    ]
    tests = paired_tests(rows).set_index("compress_on")
    assert tests["difference"].to_dict() == {"context": 100.0, "prompt": -100.0}
    lines = [line.split()[:2] for line in tables_text(rows).splitlines() if "KV" in line]
    assert ["SnapKV", "seen"] in lines and ["SnapKV", "not"] in lines


def test_samples_come_last_and_say_so(tmp_path: Path, qa_row, put_rows) -> None:
    for benchmark in ("longbench_sample", "needle"):
        put_rows(tmp_path, f"{benchmark}/snapkv/64/qasper", [qa_row(0, 1.0)])
    rows = load_results(tmp_path)
    assert [key[0] for key, _ in by_model(rows)] == ["longbench_sample", "needle"]
    assert [group.benchmark for group in grouped(rows)] == ["needle", "longbench_sample"]
    tables = tables_text(rows).split("\n\n")
    assert [BANNER in table for table in tables] == [False, False, True, True]
