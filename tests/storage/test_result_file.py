import errno
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from headkv import UserError
from headkv.records import Example, Failure, Result
from headkv.storage.atomic import write_json
from headkv.storage.result_file import PromptFile, ResultFile, cell_path
from headkv.storage.shards import Shard
from headkv.storage.tree import cells


def test_rows_are_flat_and_found_again(tmp_path: Path, result) -> None:
    path = tmp_path / "snapkv" / "64" / "single.jsonl"
    file = ResultFile(path, "cell")
    assert not path.parent.exists()
    file.append(result)
    row = json.loads(path.read_text())
    assert row["length"] == 1024 and "meta" not in row and row["prediction"] == "Über 48213"
    again = ResultFile(path, "cell")
    assert again.has("a", "one") and not again.has("a", "two") and not again.has("b", "one")


def test_a_torn_line_is_cut_off_and_redone(tmp_path: Path, result) -> None:
    path = tmp_path / "single.jsonl"
    file = ResultFile(path, "cell")
    file.append(result)
    file.close()
    whole = path.read_bytes()
    for cut in range(1, len(whole) - 1):
        path.write_bytes(whole + whole[:cut])
        again = ResultFile(path, "cell")
        assert again.has("a", "one")
        again.append(replace(result, id="b"))
        again.close()
        lines = path.read_text().splitlines()
        assert [json.loads(line)["id"] for line in lines] == ["a", "b"]
    path.write_bytes(whole[: len(whole) // 2])
    again = ResultFile(path, "cell")
    assert not again.has("a", "one")
    again.append(result)
    assert path.read_bytes() == whole


def test_a_last_row_that_lacks_its_newline_counts_everywhere(tmp_path: Path, result) -> None:
    path = tmp_path / "needle" / "tiny" / "snapkv" / "64" / "single.jsonl"
    file = ResultFile(path, "cell")
    file.append(result)
    file.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    again = ResultFile(path, "cell")
    assert again.has("a", "one")  # the store does not answer again what the report counts
    (cell,) = cells(tmp_path)
    assert cell.answered("cell") == 1 and not any(line.torn for _, line in cell.lines)
    again.append(result)
    assert path.read_bytes() == whole[:-1]
    again.append(replace(result, id="b"))
    again.append(replace(result, id="c"))
    again.close()
    assert [json.loads(line)["id"] for line in path.open()] == ["a", "b", "c"]
    assert path.read_bytes().startswith(whole)


def test_rows_of_other_settings_stay_and_do_not_count(tmp_path: Path, result) -> None:
    path = tmp_path / "single.jsonl"
    ResultFile(path, "cell").append(result)
    other = ResultFile(path, "other")
    assert other.foreign == 1 and not other.has("a", "one")
    other.append(replace(result, run_key="other-one"))
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


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, result) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="cannot write"):
        ResultFile(blocked / "single.jsonl", "cell").append(result)


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        circle: list[object] = []
        circle.append(circle)
        write_json(path, circle)
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, result) -> None:
    path = tmp_path / "single.jsonl"
    file = ResultFile(path, "cell")
    for id in "abc":
        file.append(replace(result, id=id))
    lines = path.read_bytes().splitlines(keepends=True)
    for broken in (b"{half\n", b"\0\0\0\n", b"[1]\n", b'{"id": "a"}\n', b"\xff\n"):
        path.write_bytes(lines[0] + broken + lines[2])
        with pytest.raises(UserError, match=r"single\.jsonl, line 2 is not a result"):
            ResultFile(path, "cell")


def test_failed_examples_are_tried_again(tmp_path: Path, result) -> None:
    path = tmp_path / "single.jsonl"
    file = ResultFile(path, "cell")
    file.append(Failure("a", "no memory", "cell-one"))
    assert not file.has("a", "one") and not ResultFile(path, "cell").has("a", "one")
    file.append(result)
    assert ResultFile(path, "cell").has("a", "one")


def test_an_answer_is_never_written_twice(tmp_path: Path, result) -> None:
    path = tmp_path / "single.jsonl"
    late = ResultFile(path, "cell")  # looked before the other one wrote
    first = ResultFile(path, "cell")
    first.append(result)
    first.close()
    late.append(result)
    late.append(replace(result, id="b"))
    assert [json.loads(line)["id"] for line in path.open()] == ["a", "b"]


HOLD = """
import sys
from pathlib import Path
from headkv.storage.result_file import ResultFile
file = ResultFile(Path(sys.argv[1]), "cell")
file.lock()
print("locked", flush=True)
sys.stdin.read()
"""


def test_one_process_a_file_and_a_killed_one_does_not_block(tmp_path: Path, result) -> None:
    path = tmp_path / "snapkv" / "64" / "single.jsonl"
    first = ResultFile(path, "cell")
    first.append(result)
    first.close()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"
        before = path.read_bytes()
        mine = ResultFile(path, "cell")
        for attempt in (mine.lock, lambda: mine.append(replace(result, id="b"))):
            with pytest.raises(UserError, match="another process is writing"):
                attempt()
        assert path.read_bytes() == before
        ResultFile(path, "cell", Shard(0, 2)).append(replace(result, id="c"))  # a file of its own
        other.kill()
    mine.append(replace(result, id="b"))
    assert sorted(os.listdir(path.parent)) == ["single.jsonl", "single.shard-0-of-2.jsonl"]


def test_shards_write_apart_and_know_of_each_other(tmp_path: Path, result) -> None:
    path = tmp_path / "single.jsonl"
    for index, id in enumerate("abc"):
        ResultFile(path, "cell", Shard(index, 3)).append(replace(result, id=id))
    assert not path.exists()
    whole = ResultFile(path, "cell")
    assert all(whole.has(id, "one") for id in "abc") and not whole.has("d", "one")
    halves = ResultFile(path, "cell", Shard(1, 2))  # another number of shards goes on with it
    assert halves.has("a", "one")
    halves.append(replace(result, id="d"))
    assert ResultFile(path, "cell").has("d", "one")


def limited(path: Path, size: int, row: Result) -> subprocess.CompletedProcess[str]:
    """Writes two rows where no file may grow beyond `size` bytes."""
    code = """
import json, resource, sys
from pathlib import Path
from dataclasses import replace
from headkv.records import Result
from headkv.storage.result_file import ResultFile
from headkv import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
file = ResultFile(Path(sys.argv[1]), "cell")
row = Result(**json.loads(sys.argv[3]))
try:
    for id in "ab":
        file.append(replace(row, id=id))
except UserError as problem:
    print(problem)
    sys.exit(2)
"""
    return subprocess.run(
        [sys.executable, "-c", code, str(path), str(size), json.dumps(asdict(row))],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_full_disk_leaves_whole_lines_and_the_run_goes_on(tmp_path: Path, result) -> None:
    path = tmp_path / "single.jsonl"
    ResultFile(path, "cell").append(result)
    whole = path.read_bytes()
    path.unlink()
    done = limited(path, len(whole) + 100, result)  # room for one row and a part of the next
    assert done.returncode == 2 and "cannot write" in done.stdout and "is kept" in done.stdout
    assert path.read_bytes() == whole
    assert limited(path, 10**6, result).returncode == 0
    assert [json.loads(line)["id"] for line in path.open()] == ["a", "b"]


def test_no_space_is_one_line_for_json_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "run.json", {"a": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_json(tmp_path / "run.json", {"a": 2})
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_failed_sync_is_not_taken_for_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result
) -> None:
    path = tmp_path / "single.jsonl"
    file = ResultFile(path, "cell")
    file.append(result)
    whole = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left"):
            file.append(replace(result, id="b"))
    assert path.read_bytes() == whole
    file.append(replace(result, id="b"))
    assert len(path.read_text().splitlines()) == 2


def test_prompts_are_saved_once_and_shortened(tmp_path: Path) -> None:
    path = tmp_path / "run" / "prompts.ndjson"
    short, long = (
        Example(id, "task", text, ("a",), 1) for id, text in (("1", "Why?"), ("2", "x" * 9000))
    )
    PromptFile(path).add(short)
    path.write_bytes(path.read_bytes() + b'{"torn')
    for file in (PromptFile(path), PromptFile(path)):
        for example in (short, long, long):
            file.add(example)
    lines = path.read_text().splitlines()
    assert len(lines) == 3 and lines[1] == '{"torn'
    assert json.loads(lines[0]) == {"task": "task", "id": "1", "prompt": "Why?"}
    assert len(json.loads(lines[2])["prompt"]) < 6100
