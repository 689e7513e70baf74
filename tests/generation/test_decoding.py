"""Answers of many caches at once, against each cache fed one token at a time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

from headkv import CompressedCache, Prefilled, Stopping, build_method, prefill
from headkv.generation import decoding
from headkv.generation.batch import DecodingBatch, Tree, start
from headkv.generation.decoding import answer, follow
from headkv.generation.guesses import Guesses
from headkv.kernels import Tiled
from headkv.methods import Method
from headkv.methods.scorers.base import Scorer

LEADS = [[11, 12, 13], [14, 15, 16]]


@pytest.fixture(scope="module")
def methods(head_scores: Callable[..., Any]) -> list[Method]:
    scores = head_scores(3, 6)
    return [
        build_method("fullkv"),
        build_method("streamingllm", kv_size=10),
        build_method("snapkv", kv_size=12),
        build_method("adakv", kv_size=24),
        build_method("headkv_r2", kv_size=16, head_scores=scores),
        build_method(scorer="window", allocator="model_competition", kv_size=20),
    ]


@pytest.fixture(scope="module")
def prefilled(tiny: LlamaForCausalLM) -> Prefilled:
    """Two prompts of different lengths; the second repeats itself."""
    torch.manual_seed(3)
    ids = torch.randint(3, 97, (2, 60))
    ids[1, 30:] = ids[1, :30]
    mask = torch.ones_like(ids)
    mask[0, :13] = 0
    return prefill(tiny, {"input_ids": ids, "attention_mask": mask})


def one_by_one(
    model: PreTrainedModel,
    prefilled: Prefilled,
    cache: CompressedCache,
    stopping: Stopping,
    leads: Sequence[Sequence[int]],
) -> list[list[int]]:
    """Greedy answers of one cache without any guess: every token is fed for itself."""
    batch = start(model, prefilled, [cache], leads)
    logits, answers, over = batch.logits, [[], []], [False, False]
    for step in range(stopping.max_new_tokens):
        if step < stopping.min_new_tokens:
            logits[:, list(stopping.end_tokens)] = float("-inf")
        tokens = logits.argmax(-1)
        for row, token in enumerate(tokens.tolist()):
            over[row] |= token in stopping.end_tokens
            if not over[row]:
                answers[row].append(token)
        logits = batch.feed(model, tokens[:, None])[:, -1]
    return answers


@pytest.mark.parametrize("leads", [(), LEADS], ids=["at once", "behind a question"])
@pytest.mark.parametrize("least", [0, 4])
@pytest.mark.parametrize("drafted", ["full", "odd", None])
def test_answers_are_those_of_single_steps(
    tiny: LlamaForCausalLM,
    prefilled: Prefilled,
    methods: list[Method],
    leads: Sequence[Sequence[int]],
    least: int,
    drafted: str | None,
) -> None:
    """Whatever the draft: the full cache's answer, one that nobody gives, or none."""
    free = Stopping(14, ())
    full = one_by_one(tiny, prefilled, prefilled.compress(methods[0]), free, leads)
    stopping = Stopping(14, (full[0][6], full[1][2]), least)
    wanted = [
        one_by_one(tiny, prefilled, prefilled.compress(method), stopping, leads)
        for method in methods
    ]
    batch = start(tiny, prefilled, [prefilled.compress(method) for method in methods], leads)
    draft = wanted[0] if drafted == "full" else [[5, 6], [7, 8, 9, 10]]
    begun = follow(tiny, batch, draft, stopping) if drafted else None
    got = answer(tiny, batch, stopping, begun)
    assert got == [each for answers in wanted for each in answers]
    assert len({tuple(each) for each in got}) > 4  # the caches do differ


def test_guesses_save_passes_and_change_nothing(
    tiny: LlamaForCausalLM,
    prefilled: Prefilled,
    methods: list[Method],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopping, fed = Stopping(40, ()), []
    forward = DecodingBatch._forward

    def watching(self: DecodingBatch, model: Any, tokens: Tensor, *rest: Any) -> Tensor:
        fed.append(tokens.shape[1])
        return forward(self, model, tokens, *rest)

    monkeypatch.setattr(DecodingBatch, "_forward", watching)
    found = []
    for few in (1, 8):
        monkeypatch.setattr(decoding, "_FEW", few)
        fed.clear()
        found.append(
            answer(tiny, start(tiny, prefilled, [prefilled.compress(methods[2])]), stopping)
        )
        passes = len(fed)
    assert found[0] == found[1]
    assert passes < 39 and max(fed) == 4  # two rows, eight tokens; a random model repeats itself


def test_a_tree_is_its_texts_each_alone(
    tiny: LlamaForCausalLM, prefilled: Prefilled, methods: list[Method]
) -> None:
    """In pieces too, and what is adopted is as if nothing else had been fed."""
    texts = [torch.randint(3, 97, (4, width)) for width in (5, 3)]
    made = lambda: start(tiny, prefilled, [prefilled.compress(methods[i]) for i in (2, 4)])  # noqa: E731
    alone = [made().feed(tiny, text) for text in texts]
    for piece in (8, 3):
        batch = made()
        parts = [logits for _, logits in batch.branch(tiny, Tree.of(*texts), piece)]
        torch.testing.assert_close(torch.cat(parts, 1), torch.cat(alone, 1), atol=1e-4, rtol=0)
        batch.adopt(8, torch.tensor([2, 0, 5, 1]))
        assert batch.tail == 5 and batch.visible is not None
        more = torch.randint(3, 97, (4, 2))
        got = batch.feed(tiny, more)
        for place, count in enumerate([2, 0, 5, 1]):
            other = made()
            wanted = other.feed(tiny, torch.cat([texts[0][:, :count], more], 1))[place, -2:]
            torch.testing.assert_close(got[place], wanted, atol=1e-4, rtol=0)


def test_cells_share_a_prefix_in_tiles_and_rows_that_end_leave(
    tiny: LlamaForCausalLM, prefilled: Prefilled, methods: list[Method]
) -> None:
    caches = [prefilled.compress(method) for method in methods]
    kept = torch.cat([cache.kept_tokens[:, 0] for cache in caches])
    batch = start(tiny, prefilled, caches)
    layer = batch.cache.layers[0]
    assert isinstance(layer.prefix, Tiled) and torch.equal(layer.counts, kept)
    batch.select(torch.tensor([7, 2]))
    assert torch.equal(layer.counts, kept[[7, 2]])
    alone = start(tiny, prefilled, [prefilled.compress(methods[3])])
    token = torch.tensor([[9], [9]])
    torch.testing.assert_close(
        batch.feed(tiny, token)[0], alone.feed(tiny, token)[1], atol=1e-5, rtol=0
    )


def test_cells_of_one_scorer_score_and_sort_once(
    prefilled: Prefilled, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    method = build_method("snapkv", kv_size=12)
    cls: type[Scorer] = type(method.scorer)
    scores = cls.scores

    def counting(self: Scorer, evidence: Any, stored: int) -> Tensor:
        calls.append(evidence.layer)
        return scores(self, evidence, stored)

    monkeypatch.setattr(cls, "scores", counting)
    fresh = replace(prefilled, layers=[replace(each, _evidence=[]) for each in prefilled.layers])
    for name, size in (("snapkv", 12), ("snapkv", 20), ("adakv", 12), ("pyramidkv", 16)):
        fresh.compress(build_method(name, kv_size=size))
    assert sorted(calls) == [0, 0, 1, 1, 2, 2]  # two prompts
    fresh.compress(build_method("snapkv", kv_size=12, pooling="avg"))
    fresh.compress(build_method("snapkv", kv_size=12, granularity="query_head"))
    assert len(calls) == 18


def test_guesses_are_what_came_after_the_same_tokens() -> None:
    guesses = Guesses([1, 2, 3, 4, 1, 2, 5, 6, 9])
    assert guesses.next(3) == []
    guesses.extend([1, 2])
    assert guesses.next(3) == [5, 6, 9] and guesses.next(0) == []
    guesses.extend([3])
    assert guesses.next(2) == [4, 1] and guesses.length == 12
