"""Documents with several questions: prefilled once, and as if each question had come alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from headkv.benchmarks.base import Benchmark
from headkv.config import names
from headkv.evaluation.cell_files import Run
from headkv.evaluation.documents import by_document, common, common_tokens
from headkv.evaluation.evaluator import Evaluator
from headkv.evaluation.grid import Cell
from headkv.evaluation.runner import Runner
from headkv.generation.batch import start
from headkv.generation.decoding import Stopping, answer, decode
from headkv.generation.prefill import begin, go_on, kept_positions, prefill
from headkv.methods.evidence import Evidence, reduce_groups
from headkv.methods.scorers.base import Scorer
from headkv.records import Example

Rows = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, eq=False)
class Summed(Scorer):
    """Reads the queries of the whole prompt, in both of the ways that there are."""

    name = "summed"
    needs = frozenset({"accumulated_attention", "query_statistics"})

    def scores(self, evidence: Evidence, stored: int) -> torch.Tensor:
        candidates = evidence.candidates(self.window_size)
        weight = 1 + evidence.query_statistics().mean.square().sum(-1, keepdim=True)
        summed = evidence.accumulated_attention[:, :candidates] * weight
        return reduce_groups(summed, stored, "mean")


class Library(Benchmark):
    """Three documents, with three questions, one, and two; they differ in length and in task."""

    name = "library"
    tasks = ("ask", "tell")
    built: list[str]

    def stream(self, tokenizer: Any, wanted: Any = lambda task, id: True) -> Any:
        for document, count in enumerate((3, 1, 2)):
            text = f"Book {document}. " + f"The {document} fox jumps over a lazy dog. " * 18
            for number in range(count):
                task = self.tasks[number % 2]
                if wanted(task, f"{document}-{number}"):
                    question = f"\nWhat is the fox doing {'now ' * number}?"
                    self.built = [*getattr(self, "built", []), f"{document}-{number}"]
                    yield Example(
                        id=f"{document}-{number}",
                        task=task,
                        prompt=text + question,
                        answers=("jump",),
                        max_new_tokens=6,
                        question_chars=len(question.lstrip()),
                    )

    def score(self, example: Example, prediction: str) -> dict[str, float]:
        return {"length": float(len(prediction))}

    def main_metric(self, task: str) -> str:
        return "length"


@pytest.fixture
def library(
    loaded: Any, cells: list[Cell], make_settings: Callable[..., Any]
) -> Callable[..., Runner]:
    def library(folder: Path, **changes: Any) -> Runner:
        settings = make_settings(folder, **changes)
        asked = [replace(each, compress_on=on) for each in cells for on in settings.compress_on]
        model = replace(loaded, max_prompt_tokens=5000)
        return Runner(Run(settings, Library(), model, asked))

    return library


@pytest.fixture
def prefills(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of every forward pass that fills a cache anew."""
    seen: list[int] = []
    start, whole = Evaluator.begin, Evaluator.prefill

    def begun(self: Evaluator, ids: list[int], prompts: int, whole: Any) -> Any:
        seen.append(len(ids))
        return start(self, ids, prompts, whole)

    def filled(self: Evaluator, examples: Any, beginning: Any = None) -> Any:
        if beginning is None:
            seen.append(len(examples[0].context))
        return whole(self, examples, beginning)

    monkeypatch.setattr(Evaluator, "begin", begun)
    monkeypatch.setattr(Evaluator, "prefill", filled)
    return seen


@pytest.mark.parametrize("compress_on", ["prompt", "context"])
def test_a_document_is_prefilled_once_and_no_row_changes(
    compress_on: str,
    library: Callable[..., Runner],
    prefills: list[int],
    tmp_path: Path,
    rows: Callable[..., Rows],
    same: Callable[[Rows, Rows], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcome = library(tmp_path / "shared", compress_on=compress_on).run(Library.tasks)
    assert outcome.answered == 6 * 5 and len(prefills) == 3
    with monkeypatch.context() as patch:
        patch.setattr(
            "headkv.evaluation.scheduler.by_document", lambda work: ([each] for each in work)
        )
        library(tmp_path / "alone", compress_on=compress_on).run(Library.tasks)
    assert len(prefills) == 3 + 6
    alone = rows(tmp_path / "alone")
    assert sum(map(len, alone.values())) == 30
    assert same(rows(tmp_path / "shared"), alone)


def test_question_seen_and_not_in_one_job_and_from_one_prefill(
    library: Callable[..., Runner],
    prefills: list[int],
    tmp_path: Path,
    rows: Callable[..., Rows],
    same: Callable[[Rows, Rows], bool],
) -> None:
    library(tmp_path / "both", compress_on=["prompt", "context"]).run(Library.tasks)
    assert len(prefills) == 3
    for compress_on in ("prompt", "context"):
        library(tmp_path / "two", compress_on=compress_on).run(Library.tasks)
    got, wanted = rows(tmp_path / "both"), rows(tmp_path / "two")
    assert same(got, wanted)
    names = {(path, row["compress_on"]) for path, lines in got.items() for row in lines}
    assert len(got) == len(names) == 2 * 2 * 5  # no two protocols share a file
    assert all(("context" in path) == (on == "context") for path, on in names)
    keys = {(row["id"], row["run_key"]) for lines in got.values() for row in lines}
    assert len(keys) == 6 * 5 * 2
    again = library(tmp_path / "both", compress_on=["context", "prompt"]).run(Library.tasks)
    assert (again.present, again.answered) == (60, 0)


def test_a_question_alone_shares_both_of_its_ways(
    library: Callable[..., Runner], prefills: list[int], tmp_path: Path
) -> None:
    runner = library(tmp_path, compress_on=["prompt", "context"], limit=1)
    assert runner.run(("ask",)).answered == 10
    assert len(prefills) == 1


def test_limit_and_task_filter_before_anything_is_built(
    library: Callable[..., Runner], tmp_path: Path
) -> None:
    runner = library(tmp_path, limit=1)
    assert runner.of_all_shards(("tell",)) == [("tell", "0-1")]
    assert not hasattr(runner.benchmark, "built")
    work = runner.work(("tell",))
    assert runner.benchmark.built == ["0-1"] and len(work) == 1  # type: ignore[attr-defined]
    runner.run(("tell",), work)
    assert set(runner.benchmark.built) == {"0-1"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
@pytest.mark.parametrize("cut", [1, 20, 49])
def test_what_goes_on_equals_what_is_prefilled_anew(
    family: str, cut: int, make_decoder: Callable[..., Any], make_method: Callable[..., Any]
) -> None:
    """Whatever a method reads, and however short the rest: keys, evidence, kept positions."""
    model = make_decoder(family).double()
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, 101, (50,), generator=generator).tolist()
    made = [make_method(name, 40, layers=4, heads=4) for name in names("method")]
    methods = [method for method in made if not method.second_pass]
    if family == "gemma2":  # of whose layers two are compressed
        methods = [method for method in methods if method.name in ("snapkv", "adakv", "fullkv")]
    methods.append(replace(make_method("snapkv", 40), scorer=Summed(window_size=8)))
    assert methods[-1].needs_every_query
    inputs = {"input_ids": torch.tensor([ids])}
    template, ends = 3 if cut < 49 else 0, inputs["input_ids"] % 5 == 0
    alone = prefill(model, inputs, template, methods, ends=ends)
    first = begin(model, ids[:cut], methods)
    before = [layer.keys.clone() for layer in first.layers]
    joined = go_on(model, first, ids[cut:], template, methods, ends)
    assert all(torch.equal(a, b.keys) for a, b in zip(before, first.layers, strict=True))
    torch.testing.assert_close(joined.logits, alone.logits, rtol=1e-5, atol=1e-5)
    assert joined.lengths == alone.lengths
    for a, b in zip(joined.layers, alone.layers, strict=True):
        torch.testing.assert_close((a.keys, a.values), (b.keys, b.values), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(a.queries, b.queries, rtol=1e-5, atol=1e-5)
    for method in methods:
        for a, b in zip(kept_positions(joined, method), kept_positions(alone, method), strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_leads_of_several_lengths_in_one_batch(
    make_decoder: Callable[..., Any], make_method: Callable[..., Any]
) -> None:
    """As each alone: padding behind a shorter question is seen by nobody."""
    model = make_decoder("llama")
    methods = [make_method(name, 40, layers=4, heads=4) for name in ("snapkv", "fullkv", "adakv")]
    leads = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14]]
    stopping = Stopping(12, (2,))
    whole = go_on(model, begin(model, list(range(3, 70)), methods), [], 0, methods)
    three = whole.repeat(3)
    got = decode(model, three, [three.compress(method) for method in methods], stopping, leads)
    for cell, method in enumerate(methods):
        for row, lead in enumerate(leads):
            (alone,) = decode(model, whole, [whole.compress(method)], stopping, [lead])
            assert got[cell][row] == alone[0]
    assert len({tuple(answer) for answers in got for answer in answers}) > 3


def test_equal_prompts_share_their_evidence(
    make_decoder: Callable[..., Any], make_method: Callable[..., Any]
) -> None:
    model, method = make_decoder("llama"), make_method("adakv", 40, layers=4, heads=4)
    ids = list(range(3, 60))
    whole = go_on(model, begin(model, ids, [method]), [], 0, [method])
    three = whole.repeat(3)
    assert three.layers[0].keys.data_ptr() == whole.layers[0].keys.data_ptr()
    cache, alone = three.compress(method), whole.compress(method)
    for layer, one in zip(cache.prefixes, alone.prefixes, strict=True):
        for row in range(3):
            assert torch.equal(layer.select([row]).keys, one.keys)
    assert three.row_bytes == whole.row_bytes * 3 and three.finite == [True] * 3
    whole.layers[2].values[0, 1, 5] = float("nan")
    assert whole.repeat(3).finite == [False] * 3


def test_groups() -> None:
    def ask(prompt: str) -> Any:
        return Example("1", "t", prompt, ("a",), 5), (0,)

    book, other = "a" * 2000, "b" * 2000
    prompts = [book + "x", book + "yy", other, book + "z", "a" * 700 + "c" * 1300, "", ""]
    groups = list(by_document(map(ask, prompts)))
    assert [[prompts.index(each[0].prompt) for each in group] for group in groups] == [
        [0, 1],
        [2],
        [3],
        [4],
        [5],
        [5],
    ]
    assert common("abcd", "abxd") == 2 and common([1, 2], [1, 2, 3]) == 2 and common("", "a") == 0
    assert common("abcd", "abcd", 3) == 3
    alike = list(range(100))
    assert common_tokens([alike, [*alike, 1], [*alike, 2, 3]]) == 100
    assert common_tokens([alike, [0] * 50]) == 0 and common_tokens([alike[:50]] * 2) == 0


class Talk(Library):
    """One document and three turns; the first question is compressed with it where it is seen."""

    name = "talk"

    def stream(self, tokenizer: Any, wanted: Any = lambda task, id: True) -> Any:
        text = "Book. " + "The fox jumps over a lazy dog. " * 20
        turns = ["Who jumps?", "Who jumps? A fox.\nOver whom?", "Who jumps? A fox.\nSo?"]
        for number, turn in enumerate(turns):
            if wanted("ask", str(number)):
                later = turn.removeprefix(turns[0])
                yield Example(
                    str(number), "ask", text + turn, ("a",), 6, len(turn), later_chars=len(later)
                )


def test_turns_are_read_by_one_compressed_cache(
    library: Callable[..., Runner],
    prefills: list[int],
    tmp_path: Path,
    rows: Callable[..., Rows],
) -> None:
    runner = library(tmp_path)
    talk = Runner(replace(runner.files.run, benchmark=Talk()))
    assert talk.run(("ask",)).answered == 15
    assert len(prefills) == 1  # of all turns and cells
    model, examples = runner.loaded.model, talk.examples(("ask",))
    encoded = [talk.encoder.encode(example) for example in examples]
    assert len({tuple(each.context) for each in encoded}) == 1
    text = runner.loaded.tokenizer.decode(encoded[0].context)
    assert text.endswith("lazy dog. Who jumps?")
    for index, cell in enumerate(runner.cells):
        lines = rows(tmp_path)[
            f"talk/tiny/{cell.name}/{cell.method.kv_size or 'full'}/"
            + ("ask@corrected-query_head.jsonl" if cell.name == "wide" else "ask.jsonl")
        ]
        assert len({row["kept_tokens"] for row in lines}) == 1
        assert all(row["context_tokens"] == len(encoded[0].context) for row in lines)
        # Turn after turn, on a cache that was compressed once.
        prefilled = prefill(model, {"input_ids": torch.tensor([encoded[0].context])})
        for row, each in zip(lines, encoded, strict=True):
            half = len(each.lead) // 2
            batch = start(model, prefilled, [prefilled.compress(cell.method)], [each.lead[:half]])
            rest = torch.tensor([each.lead[half:]])
            batch.logits = batch.feed(model, rest, keep=1)[:, -1]
            (tokens,) = answer(model, batch, each.stopping)
            said = runner.loaded.tokenizer.decode(tokens, skip_special_tokens=True).strip()
            assert row["prediction"] == said, (index, row["id"])
