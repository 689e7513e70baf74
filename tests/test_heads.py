"""Head scores: the vectorised rules against loops, and watching against plain attention."""

from random import Random

import pytest
import torch
from transformers import DynamicCache, LlamaForCausalLM

from headkv import UserError
from headkv.heads.find import HeadTests
from headkv.heads.needles import TESTS
from headkv.heads.scores import RULES, retrieval, retrieval_reasoning
from headkv.heads.watch import WatchedModel


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[int, int]]:
    generator = torch.Generator().manual_seed(2)
    rows = torch.rand(3, 4, 6, 50, generator=generator) ** 8
    rows[..., 20:26] *= 2
    prompt = torch.randint(0, 5, (50,), generator=generator)
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


def test_reasoning_equals_the_published_loop() -> None:
    rows, generated, prompt, (start, end) = example()
    wanted = torch.zeros(3, 4, dtype=torch.float64)
    for layer in range(3):
        for head in range(4):
            for step in range(6):
                best = rows[layer, head, step].argsort(descending=True)[: end - start].tolist()
                for position in best:
                    if start <= position < end:
                        wanted[layer, head] += float(rows[layer, head, step, position]) / 6
    torch.testing.assert_close(retrieval_reasoning(rows, generated, prompt, (start, end)), wanted)


@pytest.mark.parametrize("forced", [False, True])
def test_watched_rows_are_the_models_attention(tiny: LlamaForCausalLM, forced: bool) -> None:
    """Against transformers' eager attention weights; its answer and ours must agree too."""
    prompt = torch.randint(3, 97, (1, 40), generator=torch.Generator().manual_seed(3))
    watched = WatchedModel(tiny, prompt[0].tolist())
    if forced:
        answer = [11, 12, 13]
        rows = watched.force(answer)
    else:
        answer, rows = watched.answer(3, [])
    tiny.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            text = torch.cat([prompt, torch.tensor([answer])], 1)
            output = tiny(input_ids=text, past_key_values=DynamicCache(), output_attentions=True)
    finally:
        tiny.set_attn_implementation("headkv")
    wanted = torch.stack(output.attentions)[:, 0, :, 39:42, :39]
    # The prompt's last token is fed with the answer, so its own column is not in the prompt's.
    torch.testing.assert_close(rows, wanted, atol=1e-5, rtol=0)
    if not forced:
        assert output.logits[0, 39:42].argmax(-1).tolist() == answer


@pytest.mark.parametrize("kind", sorted(RULES))
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


@pytest.mark.parametrize("change", [{"kind": "semantics"}, {"depths": 0}, {"lengths": [0]}])
def test_settings_out_of_bounds_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(UserError):
        HeadTests(**change)
