"""Shards take every example exactly once and find each other's files."""

import os
from pathlib import Path

import pytest

from headkv.errors import UserError
from headkv.storage.shards import Shard, by_cell, cell_of, parts


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_every_example_is_in_one_shard(count: int) -> None:
    items = list(range(13))
    shares = [Shard(index, count).take(items, str) for index in range(count)]
    assert all(share == sorted(share) for share in shares)
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_shards_get_some_of_everything() -> None:
    """Tasks and lengths take turns in a benchmark, in step with the number of shards or not."""
    items = [(task, length, i) for i in range(100) for length in (1, 2) for task in "ab"]
    for count in (2, 4):
        for index in range(count):
            share = Shard(index, count).take(items, str)
            for kind in {item[:2] for item in items}:
                assert 0.15 < sum(item[:2] == kind for item in share) / len(share) < 0.35


def test_the_setting() -> None:
    assert Shard.parse(None) is None
    assert Shard.parse("0/1") == Shard(0, 1) and Shard.parse("3/4") == Shard(3, 4)
    for wrong in ("4/4", "1", "a/2", "-1/2", "1/0", "0/0", "1/2/3", "", 3, "0.5/2"):
        with pytest.raises(UserError, match="shard="):
            Shard.parse(wrong)


@pytest.mark.parametrize("name", ["single.jsonl", "a.b@paper-query_head.jsonl"])
def test_names_lead_back_to_the_cell(name: str, tmp_path: Path) -> None:
    cell = tmp_path / name
    shard = Shard(2, 11).path(cell)
    assert shard != cell and shard.suffix == ".jsonl"
    assert cell_of(shard) == cell == cell_of(cell)


def test_a_cell_is_its_files_the_newest_last(tmp_path: Path) -> None:
    cell = tmp_path / "single.jsonl"
    assert parts(cell) == []
    files = [Shard(1, 2).path(cell), cell, Shard(0, 2).path(cell)]
    for time, path in enumerate(files, 1):
        path.touch()
        os.utime(path, (time, time))
    others = [tmp_path / "single@paper-query_head.jsonl", tmp_path / "single2.jsonl"]
    for path in others:
        path.touch()
    assert parts(cell) == files
    assert by_cell(tmp_path.iterdir()) == {cell: files} | {path: [path] for path in others}
