"""Benchmarks that measure each task at several lengths."""

from pathlib import Path

from headkv.report.figures.heatmap import heatmaps
from headkv.report.groups import by_model
from headkv.report.load import load_results
from headkv.report.stats.lengths import part_cells, split_parts
from headkv.report.tables.results import write_tables


def test_lengths_by_tasks(tmp_path: Path, qa_row, put_rows, read_table) -> None:
    scores = {"qa1_1k": 100.0, "qa1_16k": 0.0, "qa2_1k": 50.0, "qa2_16k": 50.0}
    for task, score in scores.items():
        put_rows(tmp_path, f"babilong/snapkv/64/{task}", [qa_row(i, score) for i in range(2)])
    write_tables(load_results(tmp_path), tmp_path)
    body = [
        line.split(" | ")[6:]
        for line in read_table(tmp_path, "babilong_llama3_8b_lengths.md").splitlines()
        if "SnapKV" in line
    ]
    assert [cells[:3] for cells in body] == [
        ["1k", "100.0", "50.0"],
        ["16k", "0.0", "50.0"],
        ["all", "50.0", "50.0"],
    ]


def test_longbench_e_is_apart_and_in_buckets(tmp_path: Path, qa_row, put_rows, read_table) -> None:
    put_rows(tmp_path, "longbench/snapkv/64/qasper", [qa_row(0, 10.0), qa_row(1, 20.0)])
    buckets = [qa_row(0, 80.0, bucket="0-4k"), qa_row(1, 90.0, bucket="8k+")]
    put_rows(tmp_path, "longbench/snapkv/64/qasper_e", buckets)
    rows = load_results(tmp_path)
    assert {key[0]: len(part) for key, part in by_model(rows)} == {"longbench": 2, "longbench_e": 2}
    write_tables(rows, tmp_path)
    assert "| 8k+ | 90.0 |" in read_table(tmp_path, "longbench_e_llama3_8b_lengths.md")


def test_a_benchmark_may_say_what_its_parts_are(tmp_path: Path, qa_row, put_rows) -> None:
    """A new benchmark gets its table and heatmap without a line of the report."""
    for task, column, part in (("a", "find", "4k"), ("b", "find", "8k"), ("c", "count", "4k")):
        rows = [qa_row(i, 50.0, column=column, part=part) for i in range(2)]
        put_rows(tmp_path, f"mine/snapkv/64/{task}", rows)
    rows = load_results(tmp_path)
    cells = part_cells(split_parts(rows)).set_index(["task", "part"])
    assert set(cells.index) >= {("find", "4k"), ("find", "8k"), ("count", "4k"), ("find", "all")}
    assert heatmaps(rows, "t", "mine")
    assert split_parts(rows.drop(columns="part")) is None


def test_lengths_in_tokens_are_parts_too(tmp_path: Path, qa_row, put_rows) -> None:
    for task in ("vt_2048", "vt_4096", "cwe_4096", "cwe_5000"):
        put_rows(tmp_path, f"ruler/snapkv/64/{task}", [qa_row(0, 50.0)])
    parts = split_parts(load_results(tmp_path))
    assert sorted(set(zip(parts["column"], parts["part"], strict=True))) == [
        ("cwe", "4k"),
        ("cwe", "5000"),
        ("vt", "2k"),
        ("vt", "4k"),
    ]
