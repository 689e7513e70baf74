"""Two runs, folders or methods against each other, on made-up rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headkv.cli import front_door
from headkv.results.__main__ import main


@pytest.fixture
def folder(
    tmp_path: Path, make_row: Callable[..., dict[str, Any]], write_rows: Callable[..., Path]
) -> Path:
    """SnapKV answers 5 of 40, HeadKV-R2 30, FullKV all; each compressed one at two sizes."""
    for method, right in (("snapkv", 5), ("headkv_r2", 30), ("fullkv", 40)):
        for size in [None] if method == "fullkv" else [64, 128]:
            rows = [
                make_row(method, size, id=str(i), score=100.0 * (i < right), prediction=method)
                for i in range(40)
            ]
            write_rows(tmp_path, method, size, rows)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: object, code: int) -> list[str]:
    assert front_door(main, ["diff", *map(str, words)]) == code
    out, err = capsys.readouterr()
    return [" ".join(line.split()) for line in (out if code < 2 else err).splitlines()]


def test_methods_are_paired_size_by_size(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "snapkv", "headkv_r2", "--folder", folder, code=1)
    shown = [line for line in lines if line.startswith("needle")]
    begin = "needle tiny_model SnapKV / HeadKV-R2 seen KV {} 40 12.5 75.0 +62.5 ["
    assert [line.startswith(begin.format(s)) for s, line in zip((64, 128), shown, strict=True)]
    # 25 of 25 discordant: p = 2 / 2^25, times two comparisons
    assert all(line.endswith("] 0 25 40 <0.0001 <0.0001*") for line in shown)
    assert lines[-1].startswith("2 of 2 comparisons show a difference")


@pytest.mark.parametrize(
    ("words", "pairs"),
    [
        (("fullkv", "snapkv"), ["full / KV 64", "full / KV 128"]),
        (("snapkv/64", "snapkv/128"), ["KV 64 / KV 128"]),
        (("snapkv/64", "fullkv/full"), ["KV 64 / full"]),
    ],
)
def test_what_differs_pairs_with_every_value(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], pairs: list[str]
) -> None:
    code = 0 if words == ("snapkv/64", "snapkv/128") else 1
    lines = said(capsys, *words, "--folder", folder, code=code)
    shown = [line for line in lines if line.startswith("needle")]
    assert len(shown) == len(pairs)
    assert all(pair in line for pair, line in zip(pairs, shown, strict=True))


def test_a_folder_equals_itself_at_any_depth(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for inside, cells in (("", 5), ("needle/tiny_model", 5), ("needle/tiny_model/snapkv/64", 1)):
        lines = said(capsys, folder / inside, folder / inside, code=0)
        assert lines[-1].startswith(f"0 of {cells} comparisons")


def test_rows_of_one_side_only_are_counted(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make_row: Callable[..., dict[str, Any]],
    write_rows: Callable[..., Path],
) -> None:
    other = tmp_path / "elsewhere"
    rows = [make_row("snapkv", 64, id=str(i), prediction="snapkv") for i in range(35, 45)]
    write_rows(other, "snapkv", 64, rows)
    lines = said(capsys, folder, other, code=0)
    assert any(" 5 0.0 100.0 +100.0 [" in line for line in lines)
    assert any("Not compared: 35 rows only in A, 5 only in B." in line for line in lines)


@pytest.mark.parametrize(
    ("words", "said_words"),
    [
        (("snapkv", "nosuch"), "neither a folder nor a method"),
        (("snapkv", "snapkv/32"), "neither a folder nor a method"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said_words: str,
) -> None:
    (line,) = said(capsys, *words, "--folder", folder, code=2)
    assert said_words in line
    empty = folder / "empty"
    empty.mkdir()
    (line,) = said(capsys, empty / "a", empty, "--folder", folder, code=2)
