"""Batches and memory: what is answered together changes no row, and what does not fit is halved."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from headkv.evaluation import scheduler
from headkv.evaluation.evaluator import Evaluator
from headkv.evaluation.runner import Outcome

Rows = dict[str, list[dict[str, Any]]]


@pytest.mark.parametrize("examples", [None, 2, 3, 10])
@pytest.mark.parametrize("together", [None, 2])
def test_batches_change_nothing(
    wanted: Rows,
    tmp_path: Path,
    examples: int,
    together: int,
    run_words: Callable[..., Outcome],
    rows: Callable[..., Rows],
    same: Callable[[Rows, Rows], bool],
) -> None:
    run_words(tmp_path, batch_size=examples, cells_per_batch=together)
    assert same(rows(tmp_path), wanted)


def test_without_a_batch_size_rows_come_in_the_order_of_the_examples(
    tmp_path: Path,
    run_words: Callable[..., Outcome],
) -> None:
    run_words(tmp_path)
    for path in tmp_path.rglob("*.jsonl"):
        ids = [json.loads(line)["id"] for line in path.open()]
        assert ids == sorted(ids)


def test_the_question_may_come_later_in_batches_too(
    tmp_path: Path,
    run_words: Callable[..., Outcome],
    rows: Callable[..., Rows],
    same: Callable[[Rows, Rows], bool],
) -> None:
    for folder, examples in (("one", None), ("three", 3)):
        run_words(tmp_path / folder, batch_size=examples, compress_on="context")
    got = rows(tmp_path / "three")
    assert same(got, rows(tmp_path / "one"))
    for row in (row for lines in got.values() for row in lines):
        assert row["fidelity"]["kl"] is not None
        assert row["context_tokens"] < row["prompt_tokens"]


def test_examples_of_about_the_same_length_share_a_prefill(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_words: Callable[..., Outcome],
) -> None:
    seen: list[list[int]] = []
    prefill = Evaluator.prefill

    def watching(self: Evaluator, examples: Any, beginning: Any) -> Any:
        seen.append([len(each.context) for each in examples])
        return prefill(self, examples, beginning)

    monkeypatch.setattr(Evaluator, "prefill", watching)
    run_words(tmp_path, batch_size=2)
    assert sorted(map(len, seen)) == [1, 1, 2, 2, 2, 2]
    first = [length for lengths in seen[:3] for length in lengths]
    assert first == sorted(first)


@pytest.mark.parametrize(("free", "most"), [(0, 1), (10**12, 4)])
def test_as_many_cells_together_as_memory_allows(
    free: int,
    most: int,
    wanted: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_words: Callable[..., Outcome],
    rows: Callable[..., Rows],
    same: Callable[[Rows, Rows], bool],
    watch_batches: Callable[..., list[int]],
) -> None:
    sizes = watch_batches()
    monkeypatch.setattr(scheduler, "free_bytes", lambda model: free)
    run_words(tmp_path)
    assert max(sizes) == most  # the fifth cell has another granularity
    assert same(rows(tmp_path), wanted)


def test_what_does_not_fit_is_halved(
    wanted: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    run_words: Callable[..., Outcome],
    rows: Callable[..., Rows],
    same: Callable[[Rows, Rows], bool],
    watch_batches: Callable[..., list[int]],
) -> None:
    """First fewer examples, then fewer cells; what was found to fit holds for the others."""
    sizes = watch_batches(lambda prefilled, caches: len(prefilled.lengths) * len(caches) <= 1)
    outcome = run_words(tmp_path, batch_size=4)
    assert outcome.failed == 0 and outcome.answered == 50
    assert sizes[:4] == [4, 4, 4, 2] and set(sizes[4:]) == {1}
    assert same(rows(tmp_path), wanted)
    said = caplog.text
    assert "2 examples at a time" in said and "1 cells at a time" in said


def test_a_cell_that_never_fits_fails_alone_and_is_tried_again(
    wanted: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_words: Callable[..., Outcome],
    rows: Callable[..., Rows],
    same: Callable[[Rows, Rows], bool],
    watch_batches: Callable[..., list[int]],
) -> None:
    def fits(prefilled: Any, caches: Any) -> bool:
        whole = prefilled.nbytes
        return prefilled.lengths[0] <= 100 or all(cache.kept_bytes < whole for cache in caches)

    sizes = watch_batches(fits)
    outcome = run_words(tmp_path)
    monkeypatch.undo()
    first = sizes.index(4, sizes.index(2) - 1)
    assert sizes[first : first + 5] == [4, 2, 1, 3, 1]  # a cell fails; the others go on together
    lines = [row for rows_ in rows(tmp_path).values() for row in rows_]
    failed = [row for row in lines if "error" in row]
    assert len(failed) == outcome.failed == 50 - outcome.answered > 0
    for row in failed:
        assert row["error"] == "CUDA out of memory" and set(row) == {"id", "error", "run_key"}
    assert {path for path, rows_ in rows(tmp_path).items() if any("error" in r for r in rows_)} == {
        "words/tiny/fullkv/full/echo.jsonl",
        "words/tiny/fullkv/full/count.jsonl",
    }
    again = run_words(tmp_path)
    assert (again.answered, again.failed) == (outcome.failed, 0)
    got = {
        path: [row for row in lines if "error" not in row] for path, lines in rows(tmp_path).items()
    }
    assert same(got, wanted)
    assert run_words(tmp_path).present == 50


def test_a_prompt_that_never_fits_fails_with_all_its_cells(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_words: Callable[..., Outcome],
    rows: Callable[..., Rows],
) -> None:
    prefill = Evaluator.prefill

    def failing(self: Evaluator, examples: Any, beginning: Any) -> Any:
        if any(each.example.id == "echo-3" for each in examples):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return prefill(self, examples, beginning)

    monkeypatch.setattr(Evaluator, "prefill", failing)
    outcome = run_words(tmp_path, batch_size=4)
    assert (outcome.answered, outcome.failed) == (45, 5)
    failed = {row["id"] for lines in rows(tmp_path).values() for row in lines if "error" in row}
    assert failed == {"echo-3"}
