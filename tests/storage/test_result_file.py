import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from builders import ROW

from headkv import UserError
from headkv.records import Example, Failure
from headkv.storage.atomic import write_json
from headkv.storage.result_file import ResultFile, cell_path, save_prompts
from headkv.storage.shards import Shard


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
    file.close()
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:cut])
        again = ResultFile(path, "cell")
        assert again.has("a", "one")
        again.append(replace(ROW, id="b"))
        again.close()
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


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "single.jsonl"
    file = ResultFile(path, "cell")
    for id in "abc":
        file.append(replace(ROW, id=id))
    lines = path.read_bytes().splitlines(keepends=True)
    for broken in (b"{half\n", b"\0\0\0\n", b"[1]\n", b'{"id": "a"}\n', b"\xff\n"):
        path.write_bytes(lines[0] + broken + lines[2])
        with pytest.raises(UserError, match=r"single\.jsonl, line 2 is not a result"):
            ResultFile(path, "cell")


def test_failed_examples_are_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "single.jsonl"
    file = ResultFile(path, "cell")
    file.append(Failure("a", "no memory", "cell-one"))
    assert not file.has("a", "one") and not ResultFile(path, "cell").has("a", "one")
    file.append(ROW)
    assert ResultFile(path, "cell").has("a", "one")


def test_an_answer_is_never_written_twice(tmp_path: Path) -> None:
    path = tmp_path / "single.jsonl"
    late = ResultFile(path, "cell")  # looked before the other one wrote
    first = ResultFile(path, "cell")
    first.append(ROW)
    first.close()
    late.append(ROW)
    late.append(replace(ROW, id="b"))
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


def test_one_process_a_file_and_a_killed_one_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "snapkv" / "64" / "single.jsonl"
    first = ResultFile(path, "cell")
    first.append(ROW)
    first.close()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"
        before = path.read_bytes()
        mine = ResultFile(path, "cell")
        for attempt in (mine.lock, lambda: mine.append(replace(ROW, id="b"))):
            with pytest.raises(UserError, match="another process is writing"):
                attempt()
        assert path.read_bytes() == before
        ResultFile(path, "cell", Shard(0, 2)).append(replace(ROW, id="c"))  # a file of its own
        other.kill()
    mine.append(replace(ROW, id="b"))
    assert sorted(os.listdir(path.parent)) == ["single.jsonl", "single.shard-0-of-2.jsonl"]


def test_shards_write_apart_and_know_of_each_other(tmp_path: Path) -> None:
    path = tmp_path / "single.jsonl"
    for index, id in enumerate("abc"):
        ResultFile(path, "cell", Shard(index, 3)).append(replace(ROW, id=id))
    assert not path.exists()
    whole = ResultFile(path, "cell")
    assert all(whole.has(id, "one") for id in "abc") and not whole.has("d", "one")
    halves = ResultFile(path, "cell", Shard(1, 2))  # another number of shards goes on with it
    assert halves.has("a", "one")
    halves.append(replace(ROW, id="d"))
    assert ResultFile(path, "cell").has("d", "one")


def limited(path: Path, size: int) -> subprocess.CompletedProcess[str]:
    """Writes two rows where no file may grow beyond `size` bytes."""
    code = """
import resource, sys
from pathlib import Path
from dataclasses import replace
from builders import ROW
from headkv.storage.result_file import ResultFile
from headkv import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
file = ResultFile(Path(sys.argv[1]), "cell")
try:
    for id in "ab":
        file.append(replace(ROW, id=id))
except UserError as problem:
    print(problem)
    sys.exit(2)
"""
    return subprocess.run(
        [sys.executable, "-c", code, str(path), str(size)],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_full_disk_leaves_whole_lines_and_the_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "single.jsonl"
    ResultFile(path, "cell").append(ROW)
    whole = path.read_bytes()
    path.unlink()
    done = limited(path, len(whole) + 100)  # room for one row and a part of the next
    assert done.returncode == 2 and "cannot write" in done.stdout and "is kept" in done.stdout
    assert path.read_bytes() == whole
    assert limited(path, 10**6).returncode == 0
    assert [json.loads(line)["id"] for line in path.open()] == ["a", "b"]


def test_no_space_is_one_line_for_json_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "run.json", {"a": 1})

    def full(self: Path, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="No space left"):
        write_json(tmp_path / "run.json", {"a": 2})
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_failed_sync_is_not_taken_for_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "single.jsonl"
    file = ResultFile(path, "cell")
    file.append(ROW)
    whole = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left"):
            file.append(replace(ROW, id="b"))
    assert path.read_bytes() == whole
    file.append(replace(ROW, id="b"))
    assert len(path.read_text().splitlines()) == 2


def test_prompts_are_saved_once_and_shortened(tmp_path: Path) -> None:
    path = tmp_path / "run" / "prompts.ndjson"
    short, long = (
        Example(id, "task", text, ("a",), 1) for id, text in (("1", "Why?"), ("2", "x" * 9000))
    )
    save_prompts(path, [short])
    path.write_bytes(path.read_bytes() + b'{"torn')
    save_prompts(path, [short, long])
    save_prompts(path, [short, long])
    lines = path.read_text().splitlines()
    assert len(lines) == 3 and lines[1] == '{"torn'
    assert json.loads(lines[0]) == {"task": "task", "id": "1", "prompt": "Why?"}
    assert len(json.loads(lines[2])["prompt"]) < 6100
