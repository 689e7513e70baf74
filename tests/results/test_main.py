"""Looking after a results folder, on rows written by the store."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from headkv.cli import front_door
from headkv.records import Failure
from headkv.report.load import load_results
from headkv.results.__main__ import main
from headkv.storage.atomic import write_json
from headkv.storage.result_file import ResultFile, cell_path
from headkv.storage.shards import Shard

KV_SIZES = {"snapkv": 64, "fullkv": None}


def file_of(
    root: Path,
    method: str = "snapkv",
    task: str = "single",
    key: str = "cell",
    shard: Shard | None = None,
) -> ResultFile:
    folder = root / "needle" / "tiny"
    path = cell_path(folder, method, KV_SIZES[method], task, "corrected", "kv_head")
    return ResultFile(path, key, shard)


@pytest.fixture(scope="module")
def fill(result):
    def fill(root: Path, ids: str, shard: Shard | None = None, key: str = "cell") -> Path:
        """A folder with one cell of these examples and the record of its run."""
        file = file_of(root, shard=shard, key=key)
        for id in ids:
            file.append(replace(result, id=id, run_key=f"{key}-one"))
        record = {"files": {"snapkv/64/single.jsonl": [key, 4]}}
        name = f"{key}{shard.index if shard else ''}.json"
        for place in ("run.json", f"runs/{name}"):
            write_json(root / "needle" / "tiny" / place, record)
        return file.path

    return fill


def said(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    assert front_door(main, [str(word) for word in words]) == code
    out, err = capsys.readouterr()
    return out if code < 2 else err


def contents(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_ls_counts_rows_of_each_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fill
) -> None:
    fill(tmp_path, "ab", key="old")
    fill(tmp_path, "abc", shard=Shard(0, 2))
    file = file_of(tmp_path, shard=Shard(1, 2))
    file.append(Failure("d", "no memory", "cell-one"))
    file.append(Failure("a", "no memory", "cell-one"))
    lines = said(capsys, "ls", tmp_path).splitlines()
    assert lines[0].split()[:6] == ["benchmark", "model", "method", "size", "task", "variant"]
    assert [line.split()[:8] for line in lines[1:3]] == [
        ["needle", "tiny", "snapkv", "64", "single", "(old)", "2/4", "0"],
        ["needle", "tiny", "snapkv", "64", "single", "cell", "3/4", "1"],
    ]


def test_a_sound_folder_is_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fill, result
) -> None:
    fill(tmp_path, "abcd")
    full = replace(result, kv_size=None, cache_bytes=2, full_cache_bytes=2)
    file_of(tmp_path, "fullkv", key="full").append(replace(full, run_key="full-one"))
    write_json(
        tmp_path / "needle/tiny/runs/b.json", {"files": {"fullkv/full/single.jsonl": ["full", 1]}}
    )
    before = contents(tmp_path)
    assert "2 cells, sound" in said(capsys, "verify", tmp_path)
    assert "nothing to remove" in said(capsys, "gc", tmp_path, "--yes")
    assert "0 cells put together" in said(capsys, "merge", tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"kept_tokens": 0}, "kept_tokens is 0"),
        ({"cache_bytes": "1"}, "cache_bytes is '1'"),
        ({"cache_bytes": 2}, "not compressed"),
        ({"kv_size": None}, "full cache of 1 bytes where the prompt takes 2"),
        ({"run_key": "cell-one"}, "a is there 2 times"),
        ({"run_key": "strange-one"}, "rows of strange, of which no run is recorded"),
    ],
)
def test_verify_finds_rows_that_cannot_be(
    wrong: dict[str, object],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fill,
    result,
) -> None:
    path = fill(tmp_path, "a")
    assert "sound" in said(capsys, "verify", tmp_path)
    row = replace(result, run_key="cell-two").as_row() | wrong
    path.write_bytes(path.read_bytes() + json.dumps(row).encode() + b"\n")
    found = said(capsys, "verify", tmp_path, code=1).splitlines()
    assert len(found) == 1 and words in found[0] and "single.jsonl" in found[0]


def test_verify_finds_broken_lines_and_a_missing_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fill
) -> None:
    path = fill(tmp_path, "ab")
    whole = path.read_bytes()
    path.write_bytes(whole + b"{broken\n" + whole[:20])
    (tmp_path / "needle/tiny/run.json").unlink()
    found = said(capsys, "verify", tmp_path, code=1).splitlines()
    assert [line.partition("tiny")[2] for line in found] == [
        "/snapkv/64/single.jsonl, line 3: not a result",
        "/snapkv/64/single.jsonl, line 4: half-written; the next run writes it again",
        ": no run.json",
    ]


def test_merge_joins_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str], fill) -> None:
    cell = fill(tmp_path, "a")
    for index, ids in enumerate(("be", "cf", "dg")):
        fill(tmp_path, ids, Shard(index, 3))
    torn = Shard(0, 3).path(cell)
    torn.write_bytes(torn.read_bytes() + b'{"id"')
    assert "1 cells put together, 7 rows; left out, doubled or torn: 1" in said(
        capsys, "merge", tmp_path
    )
    assert os.listdir(cell.parent) == ["single.jsonl"]
    assert sorted(json.loads(line)["id"] for line in cell.open()) == list("abcdefg")
    assert "sound" in said(capsys, "verify", tmp_path)


def test_merge_brings_machines_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fill
) -> None:
    one, two, both = tmp_path / "one", tmp_path / "two", tmp_path / "both"
    fill(one, "ab", Shard(0, 2))
    fill(two, "bcd", Shard(1, 2))
    before = contents(one), contents(two)
    said(capsys, "merge", both, one, two)
    assert (contents(one), contents(two)) == before
    rows = (both / "needle/tiny/snapkv/64/single.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["id"] for line in rows) == list("abcd")
    assert sorted(os.listdir(both / "needle/tiny/runs")) == ["cell0.json", "cell1.json"]
    assert "sound" in said(capsys, "verify", both)
    merged = contents(both)
    said(capsys, "merge", both, one)  # again is the same
    assert contents(both) == merged


@pytest.mark.parametrize("conflict", ["answer", "settings", "broken", "itself"])
def test_merge_refuses_conflicts_and_writes_nothing(
    conflict: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], fill
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    fill(one, "ab")
    path = fill(two, "bc", key="other" if conflict == "settings" else "cell")
    if conflict == "answer":
        path.write_text(path.read_text().replace("48213", "48214", 1))
    if conflict == "broken":
        path.write_text("{broken\n" + path.read_text())
    before = contents(tmp_path)
    error = said(capsys, "merge", one, one if conflict == "itself" else two, code=2)
    words = {
        "answer": "another answer to b",
        "settings": "different settings",
        "broken": "line 1 is not a result",
        "itself": "is the target",
    }
    assert words[conflict] in error and error.count("\n") == 1
    assert contents(tmp_path) == before


def test_gc_says_first_and_removes_after_yes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fill
) -> None:
    fill(tmp_path, "ab", key="old")
    path = fill(tmp_path, "ab")
    file_of(tmp_path).append(Failure("c", "no memory", "cell-one"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, b"{broken\n", lines[-2], lines[-2][:9]]))
    empty = path.with_name("empty.jsonl")
    empty.touch()
    (tmp_path / "needle/tiny/run.json.1.partial").touch()
    before = contents(tmp_path)
    report = said(capsys, "gc", tmp_path)
    reasons = "1 doubled, 1 failed, 1 half-written, 2 of other settings, 1 unreadable"
    assert reasons in report and "add --yes" in report and contents(tmp_path) == before
    said(capsys, "gc", tmp_path, "--yes")
    assert path.read_bytes() == b"".join(lines[2:4]) and not empty.exists()
    assert "sound" in said(capsys, "verify", tmp_path)
    assert "nothing to remove" in said(capsys, "gc", tmp_path)


def test_a_few_newer_rows_do_not_cost_a_finished_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fill
) -> None:
    """What `gc` keeps is what the tables take."""
    fill(tmp_path, "abc", key="finished")
    path = fill(tmp_path, "a", key="tried")
    taken = load_results(tmp_path)
    said(capsys, "gc", tmp_path, "--yes")
    assert [json.loads(line)["run_key"] for line in path.open()] == ["finished-one"] * 3
    assert load_results(tmp_path).equals(taken)


@pytest.mark.parametrize("command", ["merge", "gc"])
def test_nothing_is_changed_under_a_run(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], fill
) -> None:
    fill(tmp_path, "a", Shard(1, 2))
    running = file_of(tmp_path, shard=Shard(0, 2))
    running.append(Failure("b", "no memory", "cell-one"))
    before = contents(tmp_path)
    words = [command, tmp_path, *(["--yes"] if command == "gc" else [])]
    assert "a run is writing" in said(capsys, *words, code=2)
    assert contents(tmp_path) == before
    running.close()
    said(capsys, *words)
    assert contents(tmp_path) != before


def test_a_run_goes_on_after_a_merge_that_it_did_not_see(tmp_path: Path, fill, result) -> None:
    path = fill(tmp_path, "a", Shard(0, 2))
    late = file_of(tmp_path)  # looked before the merge, writes after it
    main(["merge", str(tmp_path)])
    for id in "ab":
        late.append(replace(result, id=id))
    assert not path.exists()
    assert [json.loads(line)["id"] for line in late.path.open()] == ["a", "b"]


@pytest.mark.parametrize("command", ["ls", "verify", "merge", "gc"])
def test_no_results_is_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no results in" in said(capsys, command, tmp_path / "nowhere", code=2)


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fill
) -> None:
    fill(tmp_path, "a", Shard(0, 2))
    before = contents(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in said(capsys, "merge", tmp_path, code=2)
    assert contents(tmp_path) == before
    shutil.rmtree(tmp_path / "needle")
