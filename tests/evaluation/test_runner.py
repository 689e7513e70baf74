"""The runner on a tiny model: what is missing, signals, and rows that measuring leaves alone."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headkv.errors import UserError
from headkv.evaluation.runner import Outcome, Runner
from headkv.evaluation.signals import Stopped
from headkv.records import Example

Rows = dict[str, list[dict[str, Any]]]


def test_fidelity_changes_no_answer_and_no_key(
    wanted: Rows,
    tmp_path: Path,
    run_words: Callable[..., Outcome],
    rows: Callable[..., Rows],
) -> None:
    run_words(tmp_path, fidelity=False)
    got = rows(tmp_path)
    assert all(row.pop("fidelity") is None for lines in got.values() for row in lines)
    for lines in wanted.values():
        assert all(row["fidelity"] is not None for row in lines)
    assert got == {
        path: [{k: v for k, v in row.items() if k != "fidelity"} for row in lines]
        for path, lines in wanted.items()
    }
    assert run_words(tmp_path, fidelity=True).present == 50


def test_a_row_says_what_it_is_of_without_its_path(wanted: Rows) -> None:
    for path, lines in wanted.items():
        benchmark, model, method, _, name = Path(path).parts[-5:]
        where = (benchmark, model, method, name.partition("@")[0].removesuffix(".jsonl"), 0)
        for row in lines:
            named = ("benchmark", "model", "method", "task", "seed")
            assert tuple(row[name] for name in named) == where


def test_a_benchmark_of_another_scale_is_refused(
    make_runner: Callable[..., Runner],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: Any,
) -> None:
    """A share of 1 for the reference itself would read as one per cent in every table."""
    runner = make_runner(tmp_path)
    monkeypatch.setattr(words, "score", lambda *_: {"length": 1.0})
    with pytest.raises(UserError, match=r"words .*scores its own reference 1\.0.*0 to 100"):
        runner.check(runner.work(("echo",)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "stopped")],
)
def test_a_signal_leaves_a_state_to_go_on_from(
    number: int,
    code: int,
    word: str,
    wanted: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_words: Callable[..., Outcome],
    rows: Callable[..., Rows],
    same: Callable[[Rows, Rows], bool],
    words: Any,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    score, calls = words.score, []

    def interrupted(self: Any, example: Example, prediction: str) -> dict[str, float]:
        calls.append(example)
        if len(calls) == 18:
            os.kill(os.getpid(), number)
        return score(self, example, prediction)

    with monkeypatch.context() as patch:
        patch.setattr(words, "score", interrupted)
        with pytest.raises(Stopped) as stopped:
            run_words(tmp_path)
    assert stopped.value.code == code and signal.getsignal(signal.SIGTERM) is before
    line = str(stopped.value)
    written = sum(map(len, rows(tmp_path).values()))
    assert line.startswith(f"{word}: {written} rows written, {50 - written} of 50 answers left")
    assert 0 < written < 18
    asked = {(row["task"], row["id"]) for lines in rows(tmp_path).values() for row in lines}
    (prompts,) = tmp_path.rglob("prompts.ndjson")
    shown = [json.loads(line) for line in prompts.read_text().splitlines()]
    assert {(each["task"], each["id"]) for each in shown} == asked
    assert run_words(tmp_path).answered == 50 - written
    assert same(rows(tmp_path), wanted)


def test_what_another_process_answered_meanwhile_is_not_answered_again(
    make_runner: Callable[..., Runner], run_words: Callable[..., Outcome], tmp_path: Path
) -> None:
    """Work is worked out before the files are locked; what was written in between counts."""
    runner = make_runner(tmp_path, limit=1)
    work = runner.work(("echo", "count"))
    assert len(work) == 2
    run_words(tmp_path, limit=1)
    outcome = runner.run(("echo", "count"), work)
    assert (outcome.answered, outcome.present) == (0, 10)
