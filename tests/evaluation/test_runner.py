"""The runner on a tiny model: what is missing, signals, and rows that measuring leaves alone."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
