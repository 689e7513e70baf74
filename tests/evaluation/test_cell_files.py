"""Keys and paths of rows: what changes them, and what must not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headkv import UserError
from headkv.evaluation.cell_files import CellFiles, example_key
from headkv.evaluation.grid import Cell
from headkv.evaluation.runner import Outcome, Runner

TASKS = ("echo", "count")


def files_with(runner: Runner, **changes: Any) -> CellFiles:
    return CellFiles(replace(runner.files.run, **changes))


def test_a_file_says_which_cell_and_task(
    make_runner: Callable[..., Runner], tmp_path: Path
) -> None:
    files = make_runner(tmp_path).files
    found = [files.file(index, "echo").path.relative_to(tmp_path).as_posix() for index in (0, 2, 4)]
    assert found == [
        "words/tiny/snapkv/48/echo.jsonl",
        "words/tiny/fullkv/full/echo.jsonl",
        "words/tiny/wide/48/echo@corrected-query_head.jsonl",
    ]


def test_what_changes_an_answer_changes_its_key(
    make_runner: Callable[..., Runner], tmp_path: Path
) -> None:
    runner = make_runner(tmp_path)
    example = runner.examples(TASKS)[0]
    loaded, first = runner.loaded, runner.cells[0]
    others = [
        files_with(runner, loaded=replace(loaded, weights="other")),
        files_with(runner, loaded=replace(loaded, max_prompt_tokens=499)),
        files_with(runner, cells=[Cell(first.name, first.method, {"name": "other"})]),
        files_with(runner, validation=True),
        files_with(runner, validation=False),
    ]
    keys = [files.run_key(0, example) for files in (runner.files, *others)]
    assert len(set(keys)) == len(keys)
    assert len({key.partition("-")[2] for key in keys}) == 1  # it is the same example
    same = [
        make_runner(tmp_path / "elsewhere", limit=1, batch_size=3, fidelity=False).files,
        files_with(runner, loaded=replace(loaded, name="another")),
    ]
    assert {files.run_key(0, example) for files in same} == {keys[0]}


def test_what_is_asked_is_the_key(make_runner: Callable[..., Runner], tmp_path: Path) -> None:
    example = make_runner(tmp_path).examples(TASKS)[0]
    assert example_key(replace(example, meta={}, question_chars=0)) == example_key(example)
    changed = [{"prompt": "x"}, {"answers": ("x",)}, {"max_new_tokens": 9}, {"stop": ("x",)}]
    assert len({example_key(replace(example, **each)) for each in changed}) == 4


def test_missing_is_what_no_row_answers(
    make_runner: Callable[..., Runner], run_words: Callable[..., Outcome], tmp_path: Path
) -> None:
    run_words(tmp_path, limit=2)
    runner = make_runner(tmp_path)
    missing = {example.id: runner.files.missing(example) for example in runner.examples(TASKS)}
    assert {id for id, cells in missing.items() if not cells} == {
        "echo-0",
        "echo-1",
        "count-0",
        "count-1",
    }
    assert set(missing.values()) == {(), (0, 1, 2, 3, 4)}


def test_one_process_writes_a_file(
    make_runner: Callable[..., Runner], run_words: Callable[..., Outcome], tmp_path: Path
) -> None:
    run_words(tmp_path, limit=1)
    with make_runner(tmp_path).files.locked({(0, "echo")}):
        other = make_runner(tmp_path)
        with pytest.raises(UserError, match="another process is writing"):
            other.run(TASKS)
