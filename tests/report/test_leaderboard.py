"""The leaderboard: which rows it is of, what it writes, and that its numbers are the tables'."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from headkv.config import ROOT
from headkv.errors import UserError
from headkv.report.groups import BANNER, grouped
from headkv.report.leaderboard.__main__ import main
from headkv.report.leaderboard.standings import budget, provenance, standings
from headkv.report.leaderboard.tables import board_cells, board_tables
from headkv.report.load import load_results
from headkv.report.stats.summary import ALL_TASKS


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """The committed small run: needles, and a few sample rows of LongBench."""
    return Path(shutil.copytree(ROOT / "results" / "sample", tmp_path / "results"))


def test_it_is_of_real_rows_and_proves_where_they_are_from(sample: Path) -> None:
    assert main([str(sample)]) == 0
    folder = sample / "leaderboard"
    names = {path.name for path in folder.iterdir()}
    assert names == {"index.html", "leaderboard.md", "leaderboard.csv", "leaderboard.json"}
    about = json.loads((folder / "leaderboard.json").read_text())
    assert about["sample"] is False and {cell["benchmark"] for cell in about["cells"]} == {"needle"}
    (source,) = about["provenance"]
    assert source["rows"] == 760 and len(source["rows_sha256"]) == 64 and source["seeds"] == [0]
    assert source["runs"][0]["commit"] and source["runs"][0]["command"][0] == "run_needle.py"
    for path in folder.iterdir():
        assert BANNER not in path.read_text()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert main([str(sample)]) == 0
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_samples_come_only_when_asked_for_and_say_so(sample: Path, tmp_path: Path) -> None:
    assert main([str(sample), "--sample", "--out", str(tmp_path / "out")]) == 0
    assert "longbench_sample" in (tmp_path / "out" / "leaderboard.csv").read_text()
    for name in ("index.html", "leaderboard.md"):
        assert BANNER in (tmp_path / "out" / name).read_text()
    shutil.rmtree(sample / "needle")
    with pytest.raises(UserError, match="only sample rows"):
        main([str(sample)])


def test_numbers_are_those_of_the_tables(sample: Path) -> None:
    (group, _) = grouped(load_results(sample))
    lines = standings([group])
    whole = group.cells[group.cells["task"] == ALL_TASKS]
    keys = ["method", "kv_size", "compress_on"]
    merged = lines.merge(whole, on=keys, suffixes=("", "_of_table"))
    assert len(merged) == len(lines) == len(whole)
    for name in ("accuracy", "ci_low", "cache_share", "p_best", "seconds"):
        pd.testing.assert_series_equal(merged[name], merged[f"{name}_of_table"], check_names=False)
    assert lines["seconds"].gt(0).all()
    assert set(lines[lines["kv_size"] == 64]["best"]) == {"headkv_r"}
    scores, tests, costs = board_tables(lines)
    wanted = ["HeadKV-R", "seen", "6.25 %"]
    (place,) = [i for i, row in enumerate(scores.rows) if row[:3] == wanted]
    assert scores.rows[place][3:] == ["7.8", "50.0 [35.0, 65.0]"] and (place, 4) in scores.bold
    assert re.fullmatch(r"[<\d.]+ \(n \d+\)", tests.rows[place + 2][4])
    assert tests.rows[place][4] == "best" and costs.rows[place][4].endswith(" MB")


def test_lengths_stand_side_by_side(tmp_path: Path, qa_row, put_rows) -> None:
    for part, score in (("2k", 80.0), ("4k", 40.0)):
        for method in ("snapkv", "adakv"):
            rows = [qa_row(i, score * (i % 2), column="niah", part=part) for i in range(6)]
            put_rows(tmp_path, f"ruler/{method}/64/niah_{part}", rows)
    lines = standings(grouped(load_results(tmp_path)))
    assert lines.groupby("benchmark")["accuracy"].first().to_dict() == {
        "ruler 2k": 40.0,
        "ruler 4k": 20.0,
    }
    table = board_tables(lines)[0]
    assert table.header[-3:] == ["ruler 2k", "ruler 4k", "mean"] and table.rows[0][-1] == "30.0"


def test_shares_are_rounded_by_ratio() -> None:
    shares = (100.0, 71.0, 70.0, 36.0, 35.0, 13.3, 7.8, 3.0, 0.1)
    rounded = [100, 100, 50, 50, 25, 12.5, 6.25, 3.125, 100 / 1024]
    assert [budget(share) for share in shares] == rounded


def test_benchmarks_meet_at_their_share_of_the_cache(tmp_path: Path, qa_row, put_rows) -> None:
    """KV 64 of 256 tokens stands beside KV 256 of 1,024; of two sizes near a share, the nearer."""
    for benchmark, tokens, sizes in (("short", 256, (64,)), ("long", 1024, (256, 300))):
        for size in sizes:
            for method, score in (("snapkv", 50.0), ("adakv", 100.0)):
                held = {"kept_tokens": size, "cache_bytes": size, "full_cache_bytes": tokens}
                rows = [qa_row(i, score, size, method=method, **held) for i in range(3)]
                put_rows(tmp_path, f"{benchmark}/{method}/{size}/qa", rows)
    lines = standings(grouped(load_results(tmp_path)))
    assert set(lines["budget"]) == {25.0} and len(lines) == 6
    (_, mine), (_, other) = board_cells(lines)
    assert mine["kv_size"].tolist() == other["kv_size"].tolist() == [256, 64]
    scores = board_tables(lines)[0]
    assert scores.rows[0][:4] == ["SnapKV", "seen", "25 %", "25.0"] and len(scores.rows) == 2


def test_what_is_committed_names_no_folder(sample: Path) -> None:
    for path in sample.glob("needle/*/run*/*.json"):
        record = json.loads(path.read_text())
        record["command"] = ["run_needle.py", "output_dir=/a/b/out", "method=[/x/own,snapkv]"]
        path.write_text(json.dumps(record))
    source = provenance(grouped(load_results(sample)), sample)[0]
    assert source["runs"][0]["command"][1:] == ["output_dir=out", "method=[own,snapkv]"]
