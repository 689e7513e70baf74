"""The runner on a tiny model: batches, memory that runs out, signals, progress."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from headkv import build_method
from headkv.benchmarks.base import Benchmark
from headkv.config import CONF, load_group
from headkv.evaluation import evaluator, memory, progress
from headkv.evaluation.evaluator import Answering
from headkv.evaluation.grid import Cell
from headkv.evaluation.runner import Loaded, Outcome, Runner
from headkv.evaluation.settings import Settings
from headkv.records import Example

TASKS = ("echo", "count")


class Words(Benchmark):
    """Prompts of many lengths, the longest not last."""

    name = "words"
    tasks = TASKS

    def examples(self, tokenizer: Any) -> list[Example]:
        return [
            Example(
                f"{task}-{number}", task, "lorem ipsum " * (number * 5 % 7 + 4),
                (f"word {number}",), 5 if task == "echo" else 7,
                question_chars=6, meta={"number": number},
            )
            for number in range(5)
            for task in TASKS
        ]  # fmt: skip

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        return {"length": float(len(prediction))}

    def main_metric(self, task: str) -> str:
        return "length"

    def uses_chat_template(self, task: str) -> bool:
        return task == "echo"


@pytest.fixture(scope="module")
def loaded(byte_tokenizer, chatml) -> Loaded:
    torch.manual_seed(0)
    tokenizer = byte_tokenizer(chatml)
    config = LlamaConfig(
        hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, vocab_size=len(tokenizer),
    )  # fmt: skip
    model = LlamaForCausalLM._from_config(config, attn_implementation="headkv").eval()
    return Loaded("tiny", model, tokenizer, "weights", 500)


@pytest.fixture(scope="module")
def cells(head_scores):
    def cells() -> list[Cell]:
        scores = head_scores(2, 4)
        methods = {
            "snapkv": build_method("snapkv", kv_size=48),
            "adakv": build_method("adakv", kv_size=56),
            "fullkv": build_method("fullkv"),
            "headkv_r2": build_method("headkv_r2", kv_size=56, head_scores=scores),
            "wide": build_method("snapkv", kv_size=48, granularity="query_head"),
        }
        return [Cell(name, method, {"name": name}) for name, method in methods.items()]

    return cells


@pytest.fixture(scope="module")
def make(cells):
    def make(loaded: Loaded, folder: Path, **changes: object) -> Runner:
        config = yaml.safe_load((CONF / "base.yaml").read_text()) | {
            "model": {}, "methods": {}, "protocol": load_group("protocol", "corrected"),
            "output_dir": str(folder),
        }  # fmt: skip
        return Runner(Settings.parse(config | changes), Words(), loaded, cells())

    return make


@pytest.fixture(scope="module")
def run(make):
    def run(loaded: Loaded, folder: Path, **changes: object) -> Outcome:
        return make(loaded, folder, **changes).run(TASKS)

    return run


def rows(folder: Path, *without: str) -> dict[str, list[dict[str, Any]]]:
    """Rows by file and id, without times."""
    return {
        str(path.relative_to(folder)): [
            {key: value for key, value in row.items() if key not in ("seconds", *without)}
            for row in sorted(map(json.loads, path.open()), key=lambda row: row["id"])
        ]
        for path in sorted(folder.rglob("*.jsonl"))
    }


def same(got: dict[str, list[dict[str, Any]]], wanted: dict[str, list[dict[str, Any]]]) -> bool:
    """Fidelity to rounding, everything else exactly."""

    def plain(found: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
        return {path: [row | {"fidelity": None} for row in lines] for path, lines in found.items()}

    measured = [
        [row["fidelity"] for lines in found.values() for row in lines] for found in (got, wanted)
    ]
    close = all(a == pytest.approx(b, abs=3e-5) for a, b in zip(*measured, strict=True))
    return close and plain(got) == plain(wanted)


@pytest.fixture(scope="module")
def wanted(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory, run) -> dict[str, Any]:
    """The rows of one example and one cell at a time."""
    folder = tmp_path_factory.mktemp("alone")
    outcome = run(loaded, folder, cells_per_batch=1)
    assert (outcome.answered, outcome.present, outcome.failed) == (50, 0, 0)
    return rows(folder)


@pytest.mark.parametrize("examples", [None, 2, 3, 10])
@pytest.mark.parametrize("together", [None, 2])
def test_batches_change_nothing(
    loaded: Loaded, wanted: dict[str, Any], tmp_path: Path, examples: int, together: int, run
) -> None:
    run(loaded, tmp_path, batch_size=examples, cells_per_batch=together)
    assert same(rows(tmp_path), wanted)


def test_without_a_batch_size_rows_come_in_the_order_of_the_examples(
    loaded: Loaded, tmp_path: Path, run
) -> None:
    run(loaded, tmp_path)
    for path in tmp_path.rglob("*.jsonl"):
        ids = [json.loads(line)["id"] for line in path.open()]
        assert ids == sorted(ids)


def test_the_question_may_come_later_in_batches_too(loaded: Loaded, tmp_path: Path, run) -> None:
    for folder, examples in (("one", None), ("three", 3)):
        run(loaded, tmp_path / folder, batch_size=examples, compress_on="context")
    got = rows(tmp_path / "three")
    assert same(got, rows(tmp_path / "one"))
    for row in (row for lines in got.values() for row in lines):
        assert row["fidelity"]["kl"] is not None
        assert row["context_tokens"] < row["prompt_tokens"]


def test_fidelity_changes_no_answer_and_no_key(
    loaded: Loaded, wanted: dict[str, Any], tmp_path: Path, run
) -> None:
    run(loaded, tmp_path, fidelity=False)
    got = rows(tmp_path)
    assert all(row.pop("fidelity") is None for lines in got.values() for row in lines)
    for lines in wanted.values():
        assert all(row["fidelity"] is not None for row in lines)
    assert got == {
        path: [{k: v for k, v in row.items() if k != "fidelity"} for row in lines]
        for path, lines in wanted.items()
    }
    assert run(loaded, tmp_path, fidelity=True).present == 50


def test_rows_say_how_the_model_was_asked(wanted: dict[str, Any], loaded: Loaded) -> None:
    for path, lines in wanted.items():
        for row in lines:
            assert row["chat_template"] == ("echo" in path)
            ends = loaded.tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>"])
            assert set(ends) <= set(row["end_tokens"])
            assert row["context_tokens"] == row["prompt_tokens"]
            assert row["stored_heads"] == (8 if "wide" in path else 4)
            if "fullkv" in path:
                assert row["kept_tokens"] == row["prompt_tokens"] * 4
                assert row["cache_bytes"] == row["full_cache_bytes"]
                assert row["fidelity"]["kl"] < 1e-5 and row["fidelity"]["agreement"] == 1


def test_examples_of_about_the_same_length_share_a_prefill(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run
) -> None:
    seen: list[list[int]] = []
    prefill = Answering.prefill

    def watching(self: Answering, asks: Any) -> Any:
        seen.append([len(ask.context) for ask in asks])
        return prefill(self, asks)

    monkeypatch.setattr(Answering, "prefill", watching)
    run(loaded, tmp_path, batch_size=2)
    assert sorted(map(len, seen)) == [1, 1, 2, 2, 2, 2]
    first = [length for lengths in seen[:3] for length in lengths]
    assert first == sorted(first)


@pytest.mark.parametrize(("free", "most"), [(0, 1), (10**12, 4)])
def test_as_many_cells_together_as_memory_allows(
    free: int,
    most: int,
    loaded: Loaded,
    wanted: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run,
) -> None:
    sizes = watch_batches(monkeypatch)
    monkeypatch.setattr(evaluator, "free_bytes", lambda model: free)
    run(loaded, tmp_path)
    assert max(sizes) == most  # the fifth cell has another granularity
    assert same(rows(tmp_path), wanted)


def watch_batches(
    monkeypatch: pytest.MonkeyPatch,
    fits: Callable[[Any, int], bool] = lambda prefilled, cells: True,
) -> list[int]:
    """Notes how many cells are decoded together; memory runs out where they do not fit."""
    sizes: list[int] = []
    begin = evaluator.start

    def watching(model: Any, prefilled: Any, caches: Any, leads: Any) -> Any:
        sizes.append(len(caches))
        if not fits(prefilled, caches):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. More")
        return begin(model, prefilled, caches, leads)

    monkeypatch.setattr(evaluator, "start", watching)
    return sizes


def test_what_does_not_fit_is_halved(
    loaded: Loaded, wanted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], run,
) -> None:  # fmt: skip
    """First fewer examples, then fewer cells; what was found to fit holds for the others."""
    sizes = watch_batches(
        monkeypatch, lambda prefilled, caches: len(prefilled.lengths) * len(caches) <= 1
    )
    outcome = run(loaded, tmp_path, batch_size=4)
    assert outcome.failed == 0 and outcome.answered == 50
    assert sizes[:4] == [4, 4, 4, 2] and set(sizes[4:]) == {1}
    assert same(rows(tmp_path), wanted)
    said = capsys.readouterr().err
    assert "2 examples at a time" in said and "1 cells at a time" in said


def test_a_cell_that_never_fits_fails_alone_and_is_tried_again(
    loaded: Loaded, wanted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run
) -> None:
    def fits(prefilled: Any, caches: Any) -> bool:
        whole = prefilled.nbytes
        return prefilled.lengths[0] <= 100 or all(cache.kept_bytes < whole for cache in caches)

    with monkeypatch.context() as patch:
        sizes = watch_batches(patch, fits)
        outcome = run(loaded, tmp_path)
    first = sizes.index(4, sizes.index(2) - 1)
    assert sizes[first : first + 5] == [4, 2, 1, 3, 1]  # a cell fails; the others go on together
    lines = [row for rows_ in rows(tmp_path).values() for row in rows_]
    failed = [row for row in lines if "error" in row]
    assert len(failed) == outcome.failed == 50 - outcome.answered > 0
    for row in failed:
        assert row["error"] == "CUDA out of memory" and set(row) == {"id", "error", "run_key"}
    assert {path for path, rows_ in rows(tmp_path).items() if any("error" in r for r in rows_)} == {
        "words/tiny/fullkv/full/echo.jsonl", "words/tiny/fullkv/full/count.jsonl",
    }  # fmt: skip
    again = run(loaded, tmp_path)
    assert (again.answered, again.failed) == (outcome.failed, 0)
    got = {
        path: [row for row in lines if "error" not in row] for path, lines in rows(tmp_path).items()
    }
    assert same(got, wanted)
    assert run(loaded, tmp_path).present == 50


def test_a_prompt_that_never_fits_fails_with_all_its_cells(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run
) -> None:
    prefill = Answering.prefill

    def failing(self: Answering, asks: Any) -> Any:
        if any(ask.example.id == "echo-3" for ask in asks):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return prefill(self, asks)

    monkeypatch.setattr(Answering, "prefill", failing)
    outcome = run(loaded, tmp_path, batch_size=4)
    assert (outcome.answered, outcome.failed) == (45, 5)
    failed = {row["id"] for lines in rows(tmp_path).values() for row in lines if "error" in row}
    assert failed == {"echo-3"}


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "stopped")],
)
def test_a_signal_leaves_a_state_to_go_on_from(
    number: int,
    code: int,
    word: str,
    loaded: Loaded,
    wanted: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    score, calls = Words.score, []

    def interrupted(self: Words, example: Example, prediction: str) -> dict[str, float]:
        calls.append(example)
        if len(calls) == 18:
            os.kill(os.getpid(), number)
        return score(self, example, prediction)

    with monkeypatch.context() as patch:
        patch.setattr(Words, "score", interrupted)
        with pytest.raises(SystemExit) as stopped:
            run(loaded, tmp_path)
    assert stopped.value.code == code and signal.getsignal(signal.SIGTERM) is before
    (line,) = capsys.readouterr().err.splitlines()
    written = sum(map(len, rows(tmp_path).values()))
    assert line.startswith(f"{word}: {written} rows written, {50 - written} of 50 answers left")
    assert 0 < written < 18
    assert run(loaded, tmp_path).answered == 50 - written
    assert same(rows(tmp_path), wanted)


def test_progress_off_a_terminal_is_a_line_now_and_then(
    loaded: Loaded,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run,
) -> None:
    run(loaded, tmp_path / "quiet")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    run(loaded, tmp_path / "said")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("words tiny: 10/10 examples, ")
    for part in ("examples/s", "tokens/s", "00:00 left", "GiB"):
        assert part in last


def test_memory_is_measured_where_the_model_lies(loaded: Loaded) -> None:
    held = [torch.zeros(2**26) for _ in range(2)]
    before = memory.used_bytes(loaded.model)
    assert 2**29 < before < 2**37 and 0 < memory.free_bytes(loaded.model) < 2**44
    held.clear()
    memory.release()
    assert memory.used_bytes(loaded.model) < before - 2**28
