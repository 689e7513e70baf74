import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from headkv import UserError
from headkv.records import Result
from headkv.store import ResultFile, cell_path, write_json

ROW = Result(
    id="a", prediction="Über 48213", answers=("48213",), score=100.0, scores={"contains": 100.0},
    prompt_tokens=900, new_tokens=7, kv_size=64,
    kept_tokens=5760, cache_bytes=1, full_cache_bytes=2,
    protocol="corrected", granularity="kv_head", compress_on="prompt",
    seconds={"prefill": 1.0, "compress": 0.1, "decode": 0.2}, run_key="cell-one",
    meta={"length": 1024},
)  # fmt: skip


def test_rows_are_flat_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "snapkv" / "64" / "single.jsonl"
    file = ResultFile(path, "cell")
    assert not path.parent.exists()
    file.append(ROW)
    row = json.loads(path.read_text())
    assert row["length"] == 1024 and "meta" not in row and row["prediction"] == "Über 48213"
    again = ResultFile(path, "cell")
    assert again.has("a", "one") and not again.has("a", "two") and not again.has("b", "one")


def test_a_torn_line_is_cut_off_and_redone(tmp_path: Path) -> None:
    path = tmp_path / "single.jsonl"
    file = ResultFile(path, "cell")
    file.append(ROW)
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:cut])
        again = ResultFile(path, "cell")
        assert again.has("a", "one")
        again.append(replace(ROW, id="b"))
        lines = path.read_text().splitlines()
        assert [json.loads(line)["id"] for line in lines] == ["a", "b"]
    path.write_bytes(whole[: len(whole) // 2])
    again = ResultFile(path, "cell")
    assert not again.has("a", "one")
    again.append(ROW)
    assert path.read_bytes() == whole


def test_rows_of_other_settings_stay_and_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "single.jsonl"
    ResultFile(path, "cell").append(ROW)
    other = ResultFile(path, "other")
    assert other.foreign == 1 and not other.has("a", "one")
    other.append(replace(ROW, run_key="other-one"))
    assert ResultFile(path, "cell").has("a", "one") and ResultFile(path, "other").has("a", "one")


def test_protocols_and_granularities_never_share_a_file(tmp_path: Path) -> None:
    paths = {
        cell_path(tmp_path, "snapkv", 64, "single", protocol, granularity)
        for protocol in ("corrected", "paper")
        for granularity in ("kv_head", "query_head")
    }
    assert len(paths) == 4
    paths.add(cell_path(tmp_path, "snapkv", 64, "single", "corrected", "kv_head", "context"))
    assert len(paths) == 5
    assert cell_path(tmp_path, "fullkv", None, "a", "corrected", "kv_head") == (
        tmp_path / "fullkv" / "full" / "a.jsonl"
    )


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="cannot write"):
        ResultFile(blocked / "single.jsonl", "cell").append(ROW)


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        circle: list[object] = []
        circle.append(circle)
        write_json(path, circle)
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["run.json"]
