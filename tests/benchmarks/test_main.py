"""`python -m headkv.benchmarks`: fetched is verified, and one failure does not stop the rest."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from headkv.benchmarks import __main__, rows
from headkv.benchmarks.__main__ import Files, asked, benchmark_files, main, verify
from headkv.benchmarks.rows import SAMPLES, read_rows
from headkv.config import names
from headkv.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(rows, "cache_dir", lambda: tmp_path)
    return tmp_path


def files(rows: int, content: str = '{"text": "x"}\n' * 3) -> Files:
    def fetch(folder: Path, names: Sequence[str]) -> None:
        for name in names:
            (folder / name).write_text(content)

    return Files(
        ["a.jsonl", "b.jsonl"],
        lambda path: read_rows(path, ["text"]),
        fetch,
        lambda name: rows,
    )


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


def test_every_benchmark_that_reads_files_is_listed() -> None:
    """The others draw everything from a seed."""
    benchmarks = benchmark_files()
    assert {*benchmarks, "needle", "corpus"} == set(names("benchmark"))
    assert [*asked([], benchmarks, None), "longproc"] == ["prompts", *benchmarks]


@pytest.mark.parametrize("name", ["ruler", "longbench2", "infinitebench", "scbench", "longproc"])
def test_own_files_are_read_as_the_benchmark_reads_them(name: str, tmp_path: Path) -> None:
    """The samples stand for a user's data; a row without its fields is told with its file."""
    shutil.copytree(SAMPLES / name, tmp_path / name)
    files = benchmark_files()[name]
    if name == "longbench2":  # of the benchmark itself there are 503
        files = replace(files, rows=lambda name: None)
    there = [file for file in files.names if (tmp_path / name / file).is_file()]
    assert verify(name, files, tmp_path).startswith(f"{name}: {len(there)} files, ")
    shutil.copytree(tmp_path / name, tmp_path / "bad" / name)
    bad = tmp_path / "bad" / name / there[0]
    bad.write_text('[{"other": 1}]' if name == "longproc" else "{}")
    with pytest.raises(UserError, match=re.escape(there[0])):
        main([name, "--data-dir", str(tmp_path / "bad")])


def test_longproc_is_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"put .* into longproc/ under data_dir=$"):
        main(["longproc"])
    with pytest.raises(UserError, match="no folder of a benchmark"):
        main(["--data-dir", str(tmp_path)])
