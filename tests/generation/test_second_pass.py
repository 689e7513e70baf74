"""What a second pass notes, against eager attention that is renormalised with loops here."""

import pytest
import torch
from transformers import DynamicCache

from headkv import UserError, build_method, prefill
from headkv.generation.prefill import Prefilled, kept_positions
from headkv.generation.reading import Reading, reading
from headkv.methods.evidence import SECOND_PASS

LENGTHS = (40, 22, 13)
TEXTS = Reading(
    repeat=(5, 6, 7),
    proceed=(8, 9),
    answer=(10, 11),
    tasks=((12, 13, 10), (14, 10)),
    chunk=13,
    quoted=4,
)


@pytest.fixture(scope="module")
def methods():
    return [
        build_method(scorer=name, allocator="model_competition", kv_size=20)
        for name in ("kvzip", "kvzip_plus", "kvcompose")
    ]


@pytest.fixture(scope="module")
def rows() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, 97, (1, length), generator=generator) for length in LENGTHS]


@pytest.fixture(scope="module")
def batch(tiny, rows, methods) -> Prefilled:
    padded = [
        torch.cat([torch.zeros(1, 40 - row.shape[1], dtype=torch.long), row], 1) for row in rows
    ]
    mask = torch.stack([torch.arange(40) >= 40 - length for length in LENGTHS]).long()
    inputs = {"input_ids": torch.cat(padded), "attention_mask": mask}
    return prefill(tiny, inputs, methods=methods, reading=TEXTS)


def fed(eager, row: torch.Tensor, ids: list[int]):
    """Weights `[layer][query head, fed, token]` in full, hidden norms, and the prompt's values."""
    cache, hidden = DynamicCache(), []
    hooks = [
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: hidden.append(kwargs["hidden_states"][0].double()),
            with_kwargs=True,
        )
        for layer in eager.model.layers
    ]
    with torch.no_grad():
        eager(input_ids=row, past_key_values=cache)
        values = [layer.values[0].double() for layer in cache.layers]
        hidden.clear()
        out = eager(input_ids=torch.tensor([ids]), past_key_values=cache, output_attentions=True)
    for hook in hooks:
        hook.remove()
    return [each[0].double() for each in out.attentions], hidden, values


def plain(eager, row: torch.Tensor) -> dict[str, torch.Tensor]:
    """All three notes of one prompt, `[layer, query head, token]`."""
    tokens, prompt = row.shape[1], row[0].tolist()
    found = {what: torch.zeros(3, 6, tokens, dtype=torch.float64) for what in SECOND_PASS}
    for first in range(0, tokens, 13):
        chunk = prompt[first : first + 13]
        lead = [5, 6, 7, 10, 11] if first == 0 else [8, 9, *prompt[first - 4 : first], 10, 11]
        weights, hidden, values = fed(eager, row, lead + chunk)
        allowed = list(range(min(4, first))) + list(range(first, first + len(chunk)))
        allowed += list(range(tokens, tokens + len(lead) + len(chunk)))
        for layer in range(3):
            out = eager.model.layers[layer].self_attn.o_proj.weight.detach().double()
            for head in range(6):
                for i, every in enumerate(weights[layer][head]):
                    total = sum(float(every[j]) for j in allowed)
                    for j in range(first, first + len(chunk)):
                        share = float(every[j]) / total
                        value = out[:, head * 16 : (head + 1) * 16] @ values[layer][head // 3][j]
                        heavy = share * float(value.norm()) / float(hidden[layer][i].norm())
                        for what, given in (("repetition", share), ("weighted_repetition", heavy)):
                            found[what][layer, head, j] = max(found[what][layer, head, j], given)
    for task in TEXTS.tasks:
        weights, _, _ = fed(eager, row, list(task))
        for layer in range(3):
            paid = weights[layer][:, :, :tokens].amax(1)
            noted = found["task_prompts"][layer]
            found["task_prompts"][layer] = torch.maximum(noted, paid)
    return found


def test_notes_equal_eager_attention(batch, rows, eager, monkeypatch) -> None:
    """Padded prompts as if each were alone, one of them with a single chunk."""
    for place, row in enumerate(rows):
        wanted = plain(eager, row)
        for layer in range(3):
            evidence = batch.layers[layer].evidence[place]
            for what in SECOND_PASS:
                got = evidence.second_pass(what).double()
                assert torch.allclose(got, wanted[what][layer], atol=1e-5), (what, layer)
    assert set(batch.second_seconds) == SECOND_PASS


def test_pieces_of_what_is_fed_change_nothing(batch, tiny, rows, methods, monkeypatch) -> None:
    monkeypatch.setattr("headkv.generation.second_pass._PIECE", 5)
    alone = prefill(tiny, {"input_ids": rows[0]}, methods=methods, reading=TEXTS)
    for layer in range(3):
        for what in SECOND_PASS:
            one, other = (each.layers[layer].evidence[0] for each in (alone, batch))
            assert torch.allclose(one.second_pass(what), other.second_pass(what), atol=1e-6)


def positions(notes: list, how: str, mean: int, composite: bool) -> list[list[list[int]]]:
    """What stays of 40 tokens: sinks and the best of all heads; or composite tokens' counts."""
    scores = []
    for noted in notes:
        rows = []
        for head in range(2):
            group = [noted[3 * head + g].tolist()[:32] for g in range(3)]
            columns = list(zip(*group, strict=True))
            every = [sum(float(noted[h][t]) for h in range(6)) / 6 for t in range(32)]
            if how == "max":
                rows.append([9.0 if t < 4 else max(c) for t, c in enumerate(columns)])
            else:
                rows.append([sum(c) / 3 + e for c, e in zip(columns, every, strict=True)])
        scores.append(rows)
    units = [row for rows in scores for row in rows]
    if composite:
        ranked = [
            [sum(c) / 2 for c in zip(*(sorted(r, reverse=True) for r in rows), strict=True)]
            for rows in scores
        ]
        ranked[0] = [max(c) for c in zip(*ranked, strict=True)]
        units = ranked
    places = sorted((-s, u, t) for u, row in enumerate(units) for t, s in enumerate(row))
    won = [0] * len(units)
    for _, unit, _ in places[: mean * len(units)]:
        won[unit] += 1
    counts = [
        [won[layer]] * 2 if composite else won[2 * layer : 2 * layer + 2] for layer in range(3)
    ]
    assert min(map(min, counts)) > 0  # or the exact total would move them
    kept = []
    for rows, sizes in zip(scores, counts, strict=True):
        kept.append([])
        for row, count in zip(rows, sizes, strict=True):
            order = sorted(range(1, 32), key=lambda t: (-row[t], t))[: count - 1]
            kept[-1].append(sorted([0, *order, *range(32, 40)]))
    return kept


@pytest.mark.parametrize("name", ["kvzip", "kvzip_plus", "kvcompose"])
def test_positions_equal_the_plain_rule(name: str, tiny, rows, eager) -> None:
    composite = name == "kvcompose"
    method = build_method("kvcompose", 24) if composite else build_method("kvzip", 24, scorer=name)
    prefilled = prefill(tiny, {"input_ids": rows[0]}, methods=[method], reading=TEXTS)
    got = [[head.tolist() for head in layer] for layer in kept_positions(prefilled, method)]
    wanted = plain(eager, rows[0])[next(iter(method.second_pass))]
    assert got == positions(list(wanted), "mean" if composite else "max", 16, composite)
    assert sum(len(head) for layer in got for head in layer) == 24 * 6


def test_only_what_is_asked_for_is_read(tiny, rows, methods) -> None:
    """And a stock pass, which cannot, says so."""
    plain = build_method("snapkv", 20)
    lean = prefill(tiny, {"input_ids": rows[0]}, methods=[plain])
    assert not lean.layers[0].second and not lean.second_seconds
    one = prefill(tiny, {"input_ids": rows[0]}, methods=[plain, methods[0]], reading=TEXTS)
    assert set(one.layers[0].second) == {"repetition"}
    with pytest.raises(UserError, match=r"a second pass .*methods=\[method\]"):
        lean.compress(methods[0])
    module = one.layers[0].parts.module
    assert not module._forward_pre_hooks


def test_without_texts_the_prompt_speaks_for_itself() -> None:
    bare = Reading(chunk=10, quoted=3)
    prompt = list(range(100, 130))
    assert bare.lead(prompt, 0) == [] and bare.lead(prompt, 10) == [107, 108, 109]
    assert bare.questions(prompt) == [prompt[-24:]]


def test_texts_end_where_the_models_turn_begins() -> None:
    class Words:
        def __call__(self, text: str, add_special_tokens: bool):
            return {"input_ids": [len(word) for word in text.split()]}

    made = reading(Words(), [1, 2])
    assert made.answer == (1, 2) and made.repeat and made.proceed != made.repeat
    assert len(made.tasks) == 3 and all(task[-2:] == (1, 2) for task in made.tasks)
    assert made.lead([7] * 20, 10)[-10:] == [7] * 8 + [1, 2]
