"""Head scores: the vectorised rules against loops, and watching against plain attention."""

from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, Gemma2Config, LlamaForCausalLM

from headkv import UserError
from headkv.calibration.grids import TEXT_KINDS, HeadTestGrid
from headkv.calibration.needles import KINDS, TESTS
from headkv.calibration.rules import RULES, retrieval, retrieval_reasoning, semantic, span_attention
from headkv.calibration.watched_model import WatchedModel
from headkv.models.spec import SCORE_KINDS


def example(
    tokens: int = 50,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[int, int]]:
    generator = torch.Generator().manual_seed(2)
    rows = torch.rand(3, 4, 6, tokens, generator=generator) ** 8
    rows[..., 20:26] *= 2
    prompt = torch.randint(0, 5, (tokens,), generator=generator)
    return rows, torch.randint(0, 5, (6,), generator=generator), prompt, (20, 26)


def test_retrieval_equals_the_published_loop() -> None:
    rows, generated, prompt, (start, end) = example()
    wanted = torch.zeros(3, 4, dtype=torch.float64)
    for layer in range(3):
        for head in range(4):
            for step in range(6):
                best = int(rows[layer, head, step].argmax())
                if start <= best < end and int(prompt[best]) == int(generated[step]):
                    wanted[layer, head] += 1 / (end - start)
    assert wanted.any()
    torch.testing.assert_close(retrieval(rows, generated, prompt, (start, end)), wanted)


@pytest.mark.parametrize("tokens", [26, 50, 1000])
def test_reasoning_equals_the_published_loop(tokens: int) -> None:
    rows, generated, prompt, (start, end) = example(tokens)
    wanted = torch.zeros(3, 4, dtype=torch.float64)
    for layer in range(3):
        for head in range(4):
            for step in range(6):
                best = rows[layer, head, step].argsort(descending=True)[: end - start].tolist()
                for position in best:
                    if start <= position < end:
                        wanted[layer, head] += float(rows[layer, head, step, position]) / 6
    torch.testing.assert_close(retrieval_reasoning(rows, generated, prompt, (start, end)), wanted)


def test_semantic_equals_the_published_loop() -> None:
    rows, generated, prompt, (start, end) = example()
    wanted = torch.zeros(3, 4, dtype=torch.float64)
    for layer in range(3):
        for head in range(4):
            for step in range(6):
                for position in range(start, end):
                    if int(prompt[position]) == int(generated[step]):
                        wanted[layer, head] += float(rows[layer, head, step, start:end].sum())
    assert sum(t in prompt[start:end].tolist() for t in generated.tolist()) in range(2, 6)
    torch.testing.assert_close(semantic(rows, generated, prompt, (start, end)), wanted)


def test_span_attention_equals_a_loop() -> None:
    rows, generated, prompt, (start, end) = example()
    wanted = torch.zeros(3, 4, dtype=torch.float64)
    for layer in range(3):
        for head in range(4):
            for step in range(6):
                wanted[layer, head] += float(rows[layer, head, step, start:end].sum()) / 6
    got = span_attention(rows, generated, prompt, (start, end))
    torch.testing.assert_close(got, wanted)
    assert bool((got >= retrieval_reasoning(rows, generated, prompt, (start, end)) - 1e-9).all())


@pytest.mark.parametrize("rule", sorted(RULES))
def test_steps_may_come_in_portions(rule: str) -> None:
    """Decoding adds up step by step what teacher forcing scores at once."""
    rows, generated, prompt, span = example()
    whole = RULES[rule](rows, generated, prompt, span)
    steps = [
        RULES[rule](rows[:, :, i : i + 1], generated[i : i + 1], prompt, span) for i in range(6)
    ]
    torch.testing.assert_close(sum(steps), whole)
    assert whole.dtype == torch.float64


def test_keys_behind_the_prompt_take_part_in_the_ranking() -> None:
    """A head that looks at what was generated is no retrieval head, whatever it sees before."""
    rows, generated, prompt, span = example()
    recent = torch.cat([rows, torch.full((3, 4, 6, 2), 9.0)], -1)
    assert not retrieval(recent, generated, prompt, span).any()
    one_less = retrieval_reasoning(recent, generated, prompt, span)
    assert bool((one_less <= retrieval_reasoning(rows, generated, prompt, span)).all())


@pytest.mark.parametrize("forced", [False, True])
def test_watched_rows_are_the_models_attention(tiny: LlamaForCausalLM, forced: bool) -> None:
    """Against transformers' eager attention weights; its answer and ours must agree too."""
    prompt = torch.randint(3, 97, (1, 40), generator=torch.Generator().manual_seed(3))
    watched = WatchedModel(tiny, prompt[0].tolist())
    portions = list(watched.force([11, 12, 13]) if forced else watched.answer(3, []))
    answer = [token for tokens, _ in portions for token in tokens]
    tiny.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            text = torch.cat([prompt, torch.tensor([answer])], 1)
            output = tiny(input_ids=text, past_key_values=DynamicCache(), output_attentions=True)
    finally:
        tiny.set_attn_implementation("headkv")
    weights, step = torch.stack(output.attentions)[:, 0], 39
    assert len(portions) == (1 if forced else 3)
    for tokens, rows in portions:
        wanted = weights[:, :, step : step + len(tokens), : step + len(tokens)]
        torch.testing.assert_close(rows, wanted, atol=1e-5, rtol=0)
        step += len(tokens)
    if not forced:
        assert output.logits[0, 39:42].argmax(-1).tolist() == answer


def test_sliding_layers_are_not_watched() -> None:
    config = Gemma2Config(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=101,
        sliding_window=24,
        layer_types=["sliding_attention", "full_attention"],
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="headkv").eval()
    ids = torch.randint(3, 101, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    portions = list(WatchedModel(model, ids).answer(2, []))
    assert [rows.shape for _, rows in portions] == [(2, 4, 1, 60), (2, 4, 1, 61)]
    for _, rows in portions:
        assert not rows[0].any()
        torch.testing.assert_close(rows[1].sum(-1), torch.ones(4, 1))


@pytest.mark.parametrize("kind", sorted(TESTS))
def test_needles_bear_their_answers(kind: str) -> None:
    seen = set()
    for seed in range(200):
        test = TESTS[kind](Random(seed))
        assert test.sentences[0].count(test.answer) == 1
        assert not any(test.answer in sentence for sentence in test.sentences[1:])
        seen.add(tuple(word for word in test.question.split() if word.islower()))
        again = TESTS[kind](Random(seed))
        assert again == test
    assert len(seen) >= 3


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "semantics"},
        {"depths": 0},
        {"lengths": [0]},
        {"rule": "best"},
        {"needles": "semantic"},
        {"span": "word"},
        {"keys": "some"},
    ],
)
def test_settings_out_of_bounds_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(UserError):
        HeadTestGrid(**change)


def test_a_kind_decides_what_is_left_open() -> None:
    assert {*KINDS, *TEXT_KINDS, "cooperative"} == {*SCORE_KINDS}
    found = {kind: HeadTestGrid(kind) for kind in KINDS}
    chosen = {kind: (test.rule, test.needles, test.span) for kind, test in found.items()}
    assert chosen == {
        "retrieval": ("retrieval", "retrieval", "answer"),
        "retrieval_reasoning": ("retrieval_reasoning", "retrieval_reasoning", "sentence"),
        "semantic": ("semantic", "retrieval", "answer"),
        "cooperative": ("retrieval", "retrieval", "answer"),  # its rule is the game's
    }
    assert [test.label for test in found.values()] == list(KINDS)
    ablation = HeadTestGrid("retrieval_reasoning", rule="span_attention", keys="all")
    assert ablation.label == "retrieval_reasoning_rule-span_attention_keys-all"
    assert ablation.needles == "retrieval_reasoning"
