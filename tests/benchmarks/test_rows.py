"""Where a benchmark's rows are looked for, in which order, and what is said when they are not."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from headkv.benchmarks import rows
from headkv.benchmarks.rows import locate, present, read_rows
from headkv.downloads import hub
from headkv.downloads.hub import hub_file
from headkv.errors import UserError

WANTED = ["a.jsonl", "b.jsonl"]


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and a sample of `toy` that no other test knows."""
    monkeypatch.setattr(rows, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(rows, "SAMPLES", tmp_path / "samples")
    lay(tmp_path / "samples" / "toy", *WANTED)
    return tmp_path


def lay(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(f'{{"from": "{folder.parent.name}"}}\n')
    return folder


def forbidden(folder: Path, files: Sequence[str]) -> None:
    pytest.fail("the hub was asked")


def unreachable(folder: Path, files: Sequence[str]) -> None:
    raise UserError("the hub does not answer", allowed="", do="")


def test_data_dir_comes_first(places: Path) -> None:
    own = lay(places / "mine" / "toy", *WANTED)
    lay(places / "cache" / "data" / "toy", *WANTED)
    found = locate("toy", WANTED, places / "mine", forbidden)
    assert (found.folder, found.sample) == (own, False)


def test_a_file_missing_in_data_dir_is_named_and_nothing_stands_in(places: Path) -> None:
    lay(places / "mine" / "toy", "a.jsonl")
    lay(places / "cache" / "data" / "toy", *WANTED)
    with pytest.raises(UserError, match=r"no .*mine/toy/b\.jsonl; .*headkv data toy"):
        locate("toy", WANTED, places / "mine", forbidden)
    assert present("toy", WANTED, places / "mine") == ["a.jsonl"]


def test_a_data_dir_without_the_benchmark_is_passed_over(places: Path) -> None:
    (places / "mine").mkdir()
    cache = lay(places / "cache" / "data" / "toy", *WANTED)
    assert locate("toy", WANTED, places / "mine", forbidden).folder == cache
    assert present("toy", WANTED, places / "mine") == WANTED


def test_the_hub_is_asked_once_and_only_for_what_is_missing(places: Path) -> None:
    cache = lay(places / "cache" / "data" / "toy", "a.jsonl")
    asked = []

    def fetch(folder: Path, files: Sequence[str]) -> None:
        asked.append(list(files))
        lay(folder, *files, "more.jsonl")

    for _ in range(2):
        assert not locate("toy", WANTED, None, fetch).sample
    assert asked == [["b.jsonl"]]
    assert {path.name for path in cache.iterdir()} == {*WANTED, "more.jsonl"}


def test_an_interrupted_download_leaves_no_file(places: Path) -> None:
    def interrupted(folder: Path, files: Sequence[str]) -> None:
        lay(folder, "a.jsonl")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        locate("toy", WANTED, None, interrupted)
    assert not list((places / "cache").rglob("*.jsonl"))


@pytest.mark.parametrize("problem", [OSError("no route"), UserError("no route", allowed="", do="")])
def test_nothing_anywhere_is_the_sample_in_plain_sight(
    problem: Exception, places: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fetch(folder: Path, files: Sequence[str]) -> None:
        raise problem

    found = locate("toy", WANTED, None, fetch)
    assert (found.folder, found.sample) == (places / "samples" / "toy", True)
    said = caplog.text
    assert "SAMPLE ONLY" in said and "no route" in said and "toy_sample" in said


def test_part_of_the_data_is_never_replaced_by_the_sample(places: Path) -> None:
    lay(places / "cache" / "data" / "toy", "a.jsonl")
    with pytest.raises(UserError, match=r"the hub does not answer\).*put b\.jsonl into toy/"):
        locate("toy", WANTED, None, unreachable)


def test_a_sample_without_the_file_is_an_error() -> None:
    with pytest.raises(UserError, match=r"c\.jsonl"):
        locate("toy", ["c.jsonl"], None, None)


def test_a_cache_that_cannot_be_written(places: Path) -> None:
    def full(folder: Path, files: Sequence[str]) -> None:
        raise OSError(28, "No space left on device")

    lay(places / "cache" / "data" / "toy", "a.jsonl")
    with pytest.raises(UserError, match=r"No space left on device.*HEADKV_CACHE"):
        locate("toy", WANTED, None, full)


def test_a_silent_hub_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking up a name may hang longer than any timeout says."""
    release = threading.Event()

    class Hangs:
        def dataset_info(self, repo: str, timeout: float) -> None:
            release.wait(60)

    asked = []

    def download(repo: str, name: str, **options: object) -> str:
        asked.append(options["local_files_only"])
        raise FileNotFoundError("not cached")

    monkeypatch.setattr(hub, "HfApi", Hangs)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.setattr(hub, "DEADLINE_SECONDS", 0.1)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"data\.zip of a/b .*the hub does not answer"):
        hub_file("a/b", "data.zip")
    assert time.monotonic() - start < 5 and asked == [True]
    release.set()


def test_without_the_hub_its_own_cache_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    class Offline:
        def dataset_info(self, repo: str, timeout: float) -> None:
            raise OSError("offline")

    def download(repo: str, name: str, **options: object) -> str:
        return f"/hub/{name}/{options['local_files_only']}"

    monkeypatch.setattr(hub, "HfApi", Offline)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert hub_file("a/b", "data.zip") == Path("/hub/data.zip/True")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"text": "x", "answer"', "line 2 is not JSON"),
        (b'{"text": "\xff", "answer": 1}', "line 2 is not JSON"),
        (b"", "line 2 is not JSON"),
        (b"[1]", "line 2 is not a JSON object"),
        (b'{"text": "x"}', "line 2 has no answer"),
    ],
)
def test_a_broken_line_is_named(line: bytes, words: str, tmp_path: Path) -> None:
    good = '{"text": "one\u2028line", "answer": 1}'.encode()
    path = tmp_path / "rows.jsonl"
    path.write_bytes(good + b"\n" + line + b"\n" + good)
    rows = read_rows(path, ["text", "answer"])
    assert next(rows)["text"] == "one\u2028line"  # before the broken line is looked at
    with pytest.raises(UserError, match=f"rows.jsonl {words}"):
        next(rows)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*rows\.jsonl"):
        next(read_rows(tmp_path / "rows.jsonl", []))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "is empty"),
        ("\ufeff{}".encode("utf-16"), "UTF-16"),
        (b'{"a": ' + b"[" * 100_000, "nested too deeply|not JSON"),
    ],
)
def test_what_is_no_text_is_refused(line: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "task.jsonl").write_bytes(line)
    with pytest.raises(UserError, match=words):
        list(read_rows(tmp_path / "task.jsonl", ["a"]))


def test_half_characters_are_mended_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "task.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "x\\ud800y\\u0000", "b": ["\\udfff", 1]}\n{"a": "z"}\n')
    assert list(read_rows(path, ["a"])) == [{"a": "x\ufffdy\ufffd", "b": ["\ufffd", 1]}, {"a": "z"}]
    assert caplog.text.count("replaced") == 1 and "line 1" in caplog.text
