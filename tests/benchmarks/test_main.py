"""`python -m headkv.benchmarks`: fetched is verified, and one failure does not stop the rest."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from headkv.benchmarks import __main__, rows
from headkv.benchmarks.__main__ import Files, benchmark_files, main, verify
from headkv.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(rows, "cache_dir", lambda: tmp_path)
    return tmp_path


def files(rows: int, content: str = '{"text": "x"}\n' * 3) -> Files:
    def fetch(folder: Path, names: Sequence[str]) -> None:
        for name in names:
            (folder / name).write_text(content)

    return Files(["a.jsonl", "b.jsonl"], ["text"], fetch, lambda name: rows)


def test_files_and_rows_are_counted(cache: Path) -> None:
    assert verify("toy", files(3)) == f"toy: 2 files, 6 rows: {cache / 'data' / 'toy'}"


@pytest.mark.parametrize(
    ("given", "words"),
    [(files(4), r"a\.jsonl has 3 rows"), (files(1, '{"other": 1}\n'), "line 1 has no text")],
)
def test_what_is_not_whole_is_refused(given: Files, words: str) -> None:
    with pytest.raises(UserError, match=words):
        verify("toy", given)


def test_the_published_numbers_of_rows() -> None:
    """LongBench's statistics: 4,750 rows, and 3,668 in LongBench-E."""
    longbench = benchmark_files()["longbench"]
    rows = {name: longbench.rows(name) or 0 for name in longbench.names}
    assert sum(n for name, n in rows.items() if not name.endswith("_e.jsonl")) == 4750
    assert sum(n for name, n in rows.items() if name.endswith("_e.jsonl")) == 3668


def test_one_failure_does_not_stop_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(__main__, "benchmark_files", lambda: {"bad": files(4), "good": files(3)})
    with pytest.raises(UserError, match=r"a\.jsonl has 3 rows"):
        main(["bad", "good"])
    assert capsys.readouterr().out.splitlines()[1].startswith("good: 2 files")
    assert main(["good"]) == 0
    with pytest.raises(UserError, match="godo"):
        main(["godo"])
