"""What counts of the rows of a results folder."""

from pathlib import Path

import pytest

from headkv.errors import UserError
from headkv.report.load import load_results
from headkv.report.stats.summary import summarise


def test_load_names_every_row(results: Path, skill) -> None:
    rows = load_results(results)
    assert len(rows) == 13 * 40
    assert set(rows["method"]) == set(skill)
    assert (rows[["benchmark", "model", "task"]].drop_duplicates().to_numpy().tolist()) == [
        ["needle", "tiny_model", "single"]
    ]
    assert rows.loc[rows["method"] == "fullkv", "kv_size"].isna().all()
    assert rows.loc[rows["method"] != "fullkv", "kv_size"].notna().all()


def test_load_takes_the_setting_with_the_most_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make_row, write_rows
) -> None:
    old = [make_row("snapkv", 64, id=str(i), run_key=f"old-{i}", score=0.0) for i in range(3)]
    new = [make_row("snapkv", 64, id=str(i), run_key=f"new-{i}") for i in range(3)]
    write_rows(tmp_path, "snapkv", 64, old + new[:2])
    assert load_results(tmp_path)["score"].tolist() == [0.0] * 3
    error = caplog.text
    assert "ignored 2 rows of runs with other settings (the newer ones are fewer)" in error
    assert str(tmp_path) not in error
    write_rows(tmp_path, "snapkv", 64, old + new)  # of equals the newer one
    assert load_results(tmp_path)["score"].tolist() == [100.0] * 3


def test_load_takes_the_last_of_duplicates(tmp_path: Path, make_row, write_rows) -> None:
    twice = [make_row("snapkv", 64, score=0.0), make_row("snapkv", 64, score=100.0)]
    write_rows(tmp_path, "snapkv", 64, twice)
    assert load_results(tmp_path)["score"].tolist() == [100.0]


@pytest.mark.parametrize("torn", [b'{"id": "1", "sco', b'{"id": "\xc3', b"17"])
def test_load_ignores_a_torn_last_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, torn: bytes, make_row, write_rows
) -> None:
    path = write_rows(tmp_path, "snapkv", 64, [make_row("snapkv", 64)])
    path.write_bytes(path.read_bytes() + torn)
    assert len(load_results(tmp_path)) == 1
    assert "half-written last line" in caplog.text


def test_load_trusts_the_row_over_the_file_name(tmp_path: Path, make_row, write_rows) -> None:
    write_rows(tmp_path, "snapkv", 64, [make_row("snapkv", 64)])
    paper = make_row("snapkv", 64, protocol="paper", granularity="query_head")
    write_rows(tmp_path, "snapkv", 64, [paper], task="single@paper-query_head")
    rows = load_results(tmp_path)
    assert set(rows["task"]) == {"single"}
    assert len(summarise(rows)) == 4  # two cells, each with its task and its mean of tasks


def test_load_warns_when_prompts_differ(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make_row, write_rows
) -> None:
    write_rows(tmp_path, "snapkv", 64, [make_row("snapkv", 64)])
    write_rows(tmp_path, "adakv", 64, [make_row("adakv", 64, prompt_tokens=999)])
    load_results(tmp_path)
    assert "1 examples have prompts of different lengths" in caplog.text


def test_load_names_what_it_cannot_use(
    results: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, make_row, write_rows
) -> None:
    with pytest.raises(UserError, match=r"unknown benchmark 'nedle'.*needle"):
        load_results(results, "nedle")
    with pytest.raises(UserError, match="no results in"):
        load_results(tmp_path / "nothing")
    row = make_row("snapkv", 64)
    for broken, what in (
        ({k: v for k, v in row.items() if k != "cache_bytes"}, "line 2: cache_bytes is missing"),
        (row | {"score": float("nan")}, "line 2: unreadable"),
        (row | {"score": True}, "line 2: score is True"),
    ):
        caplog.clear()
        write_rows(tmp_path / "broken", "snapkv", 64, [row, broken])
        assert len(load_results(tmp_path / "broken")) == 1
        assert "ignored 1 of 2 lines" in caplog.text and what in caplog.text


def test_shards_are_read_with_the_merged_file(tmp_path: Path, qa_row, put_rows) -> None:
    put_rows(tmp_path, "needle/snapkv/64/single", [qa_row(0, 1.0), qa_row(1, 1.0)])
    put_rows(tmp_path, "needle/snapkv/64/single.shard-0-of-2", [qa_row(1, 1.0), qa_row(2, 1.0)])
    rows = load_results(tmp_path)
    assert rows["id"].tolist() == ["0", "1", "2"]
    assert set(rows["task"]) == {"single"}
