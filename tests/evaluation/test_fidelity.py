"""Fidelity against plain sums over logits that are fed one token at a time."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from headkv import CompressedCache, Prefilled, Stopping, build_method, prefill
from headkv.evaluation import fidelity
from headkv.evaluation.fidelity import TOKENS, Fidelity, answer_ids
from headkv.generation.batch import start
from headkv.generation.decoding import answer
from headkv.methods import Method

REFERENCES = [[5, 6, 7, 8], [9, 10]]
STOPPING = Stopping(6, (2, 3))
FULL = build_method("fullkv")


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def model(request: pytest.FixtureRequest, make_decoder) -> PreTrainedModel:
    """Full attention, and sliding windows among it, whose layers cannot take tokens back."""
    return make_decoder(request.param)


@pytest.fixture(scope="module")
def methods(head_scores):
    def methods(model: PreTrainedModel) -> list[Method]:
        scores = head_scores(model.config.num_hidden_layers, model.config.num_attention_heads)
        return [
            FULL,
            build_method("snapkv", kv_size=12),
            build_method("headkv_r2", kv_size=16, head_scores=scores),
        ]

    return methods


def step_by_step(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], method: Method, tokens: Sequence[int]
) -> list[torch.Tensor]:
    """Log-probabilities before each token and after the last, one sequence, one token at a time."""
    cache = CompressedCache(model.config, method)
    with torch.no_grad():
        logs = [model(**inputs, past_key_values=cache).logits[0, -1].log_softmax(-1)]
        for token in tokens:
            logits = model(input_ids=torch.tensor([[token]]), past_key_values=cache).logits
            logs.append(logits[0, -1].log_softmax(-1))
    return logs


@pytest.fixture(scope="module")
def alone(batch):
    def alone(row: int) -> dict[str, torch.Tensor]:
        start = [0, 13][row]
        return {key: value[row : row + 1, start:] for key, value in batch().items()}

    return alone


def measure(
    model: PreTrainedModel,
    prefilled: Prefilled,
    chosen: Sequence[Method],
    stopping: Stopping = STOPPING,
    own: list[list[int]] | None = None,
) -> list[dict[str, float | None]]:
    against = Fidelity(model, whole(model, prefilled), REFERENCES, stopping, own)
    rows = start(model, prefilled, [prefilled.compress(each) for each in chosen])
    return against.of(rows)[0]


def whole(model: PreTrainedModel, prefilled: Prefilled, leads: Sequence[Sequence[int]] = ()) -> Any:
    """The full cache, about to answer."""
    return start(model, prefilled, [prefilled.compress(FULL)], leads)


def full_answers(
    model: PreTrainedModel, prefilled: Prefilled, stopping: Stopping
) -> list[list[int]]:
    return answer(model, start(model, prefilled, [prefilled.compress(FULL)]), stopping)


def test_equals_sums_over_single_steps(model: PreTrainedModel, alone, batch, methods) -> None:
    """Two prompts of different lengths, whose references and answers have different lengths."""
    prefilled = prefill(model, batch())
    free = full_answers(model, prefilled, Stopping(6, ()))
    stopping = Stopping(6, (free[0][3], 3))
    full = full_answers(model, prefilled, stopping)
    assert len(full[0]) < 6 and len(full[0]) != len(full[1])
    got = measure(model, prefilled, methods(model), stopping)
    for place, method in enumerate(methods(model)):
        for row, reference in enumerate(REFERENCES):
            found = got[place * 2 + row]
            logs = step_by_step(model, alone(row), method, reference)
            terms = [float(log[token]) for log, token in zip(logs, reference, strict=False)]
            terms.append(math.log(float(logs[-1].exp()[list(stopping.end_tokens)].sum())))
            assert found["reference_logprob"] == pytest.approx(sum(terms) / len(terms), abs=1e-4)
            own = full[row]
            pairs = list(
                zip(
                    step_by_step(model, alone(row), FULL, own),
                    step_by_step(model, alone(row), method, own),
                    strict=True,
                )
            )[1 : len(own) + (len(own) < stopping.max_new_tokens)]
            apart = [float((a.exp() * (a - b)).sum()) for a, b in pairs]
            same = [int(a.argmax()) == int(b.argmax()) for a, b in pairs]
            assert found["kl"] == pytest.approx(sum(apart) / len(apart), abs=1e-4)
            assert found["agreement"] == pytest.approx(sum(same) / len(same), abs=1e-4)
    assert all(each["kl"] < 1e-5 and each["agreement"] == 1 for each in got[:2])
    assert all(each["kl"] > 1e-3 for each in got[2:])
    for row in range(2):
        values = {each["reference_logprob_full"] for each in got[row::2]}
        assert values == {got[row]["reference_logprob"]}


def test_pieces_and_known_answers_change_nothing(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, batch, methods
) -> None:
    prefilled = prefill(model, batch())
    wanted = measure(model, prefilled, methods(model))
    full = full_answers(model, prefilled, STOPPING)
    monkeypatch.setattr(fidelity, "LOGITS", 2 * 6 * 101)
    for got in (
        measure(model, prefilled, methods(model)),
        measure(model, prefilled, methods(model), own=full),
    ):
        for a, b in zip(got, wanted, strict=True):
            assert a == pytest.approx(b, abs=2e-5)


def test_rows_do_not_notice_that_they_were_measured(model: PreTrainedModel, batch, methods) -> None:
    """To the last bit, with tokens fed before the answer too."""
    prefilled = prefill(model, batch())
    for leads in ((), [[11, 12, 13], [14, 15, 16]]):
        kept = []
        for measured in (False, True):
            caches = [prefilled.compress(method) for method in methods(model)]
            rows = start(model, prefilled, caches, leads)
            fork = rows.fork()
            if measured:
                full = whole(model, prefilled, leads)
                Fidelity(model, full, REFERENCES, STOPPING, first=int(not leads)).of(fork)
            tokens = torch.full((6, 1), 7)
            kept.append([rows.logits, *(rows.feed(model, tokens) for _ in range(3))])
        assert all(torch.equal(a, b) for a, b in zip(*kept, strict=True))


def test_a_measurement_does_not_depend_on_the_other_cells(
    model: PreTrainedModel, batch, methods
) -> None:
    prefilled = prefill(model, batch())
    together = measure(model, prefilled, methods(model))
    for place, method in enumerate(methods(model)):
        for a, b in zip(
            measure(model, prefilled, [method]), together[place * 2 : place * 2 + 2], strict=True
        ):
            assert a == pytest.approx(b, abs=2e-5)


def test_the_first_token_counts_once_it_comes_from_the_compressed_cache(
    tiny: LlamaForCausalLM,
) -> None:
    """With one new token there is nothing to compare, but where the question came later."""
    prefilled = prefill(tiny, {"input_ids": torch.randint(3, 97, (1, 60))})
    once = Stopping(1, (2,))
    method = build_method("streamingllm", kv_size=10)
    found = []
    for leads in ((), [[5, 6, 7]]):
        rows = start(tiny, prefilled, [prefilled.compress(method)], leads)
        full = whole(tiny, prefilled, leads)
        found += Fidelity(tiny, full, [[5]], once, first=int(not leads)).of(rows)[0]
    assert found[0]["kl"] is None and found[0]["agreement"] is None
    assert found[0]["reference_logprob"] is not None
    assert found[1]["kl"] > 0 and found[1]["agreement"] in (0, 1)


def test_nothing_to_measure_is_none_and_long_answers_are_cut(tiny: LlamaForCausalLM) -> None:
    prefilled = prefill(tiny, {"input_ids": torch.randint(3, 97, (1, 60))})
    ends_at_once = Stopping(9, (int(prefilled.logits.argmax()),))

    def found(reference: list[int], stopping: Stopping) -> dict[str, float | None]:
        rows = start(tiny, prefilled, [prefilled.compress(build_method("snapkv", kv_size=20))])
        return Fidelity(tiny, whole(tiny, prefilled), [reference], stopping).of(rows)[0][0]

    assert set(found([], ends_at_once).values()) == {None}
    ids = torch.randint(3, 97, (TOKENS + 5,)).tolist()
    long = found(ids, Stopping(TOKENS + 40, ()))
    assert long == found(ids[:TOKENS], Stopping(TOKENS, ()))
    assert long["kl"] is not None


@pytest.mark.parametrize(
    ("prompt", "text", "tokens"),
    [
        ("Answer:", "Paris", " Paris"),
        ("Answer: ", " Paris\n", "Paris"),
        ("def f():\n", "return 1", "return 1"),
        ("答案\uff1a", "北京", "北京"),
        ("Answer:", " \n", ""),
    ],
)
def test_an_answer_stands_behind_its_prompt(
    prompt: str, text: str, tokens: str, byte_tokenizer
) -> None:
    tokenizer = byte_tokenizer()
    ids = answer_ids(tokenizer, tokenizer(prompt)["input_ids"], text)
    assert tokenizer.decode(ids) == tokens


def test_an_answer_stands_behind_the_chat_template(byte_tokenizer, chatml) -> None:
    tokenizer = byte_tokenizer(chatml)
    turns = [{"role": "user", "content": "Which city?"}, {"role": "assistant", "content": "Paris"}]
    whole = tokenizer.apply_chat_template(turns, return_dict=False)
    prompt = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
    ids = answer_ids(tokenizer, prompt, "Paris")
    assert ids and whole[len(prompt) :][: len(ids)] == ids
