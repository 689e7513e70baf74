"""Entries that are rewritten: merged values and balanced halves, against plain loops in float64.

What attention reads of them is compared with a dense attention over all tokens, in every backend.
"""

import math
import random

import pytest
import torch

from headkv import CompressedCache, build_method, prefill
from headkv.kernels import attend, attend_token, available, causal_tail, join
from headkv.methods import Evidence

HEADS, KV_HEADS, WIDTH, TAIL = 6, 2, 16, 8


def evidence(tokens: int, seed: int = 0, layer: int = 1, scale: float = 1.0) -> Evidence:
    generator = torch.Generator().manual_seed(seed)
    queries, keys, values = (
        torch.randn(heads, tokens, WIDTH, generator=generator) * scale
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    return Evidence(queries, keys, layer, values, 3)


def halved(keys, values, coins: list[float], block: int, gamma: float) -> list[int]:
    """One halving by the published steps: 0, 1 or 2 for every token."""
    tokens, width = len(keys), len(keys[0])
    signs: list[int] = []
    for first in range(0, tokens, block):
        own = [keys[t] if t < tokens else [0.0] * width for t in range(first, first + block)]
        seen = [values[t] if t < tokens else [0.0] * width for t in range(first, first + block)]
        mean = [sum(column) / block for column in zip(*own, strict=True)]
        own = [[x - m for x, m in zip(row, mean, strict=True)] for row in own]
        mine: list[int] = [1]
        for i in range(1, block):
            imbalance = 0.0
            for j in range(i):
                alike = sum(a * b for a, b in zip(own[i], own[j], strict=True)) / math.sqrt(width)
                product = sum(a * b for a, b in zip(seen[i], seen[j], strict=True))
                imbalance += math.exp(alike) * (product + 1e-8 + 0.025) * mine[j]
            mine.append(1 if coins[first + i] < 0.5 - gamma * imbalance else -1)
        signs += mine
    signs, half = signs[:tokens], tokens // 2
    reached = []
    for sign in (1, -1):
        places = [t for t, each in enumerate(signs) if each == sign]
        reached.append(places[half - 1] if len(places) >= half else 0)
    last = max(reached)
    return [1 if t > last else 2 * (signs[t] != signs[last]) for t in range(tokens)]


def balanced(layer: Evidence, head: int, count: int, sinks: int, block: int, seed: int):
    """Positions, how many tokens an entry's value counts for, and how many its logit."""
    middle, room = layer.tokens - sinks - TAIL, count - sinks - TAIL
    rounds = max(math.ceil(math.log2(middle / room)), 0)
    recent = next(r for r in range(room + 1) if r + (middle - r) // 2**rounds == room)
    order = list(range(sinks, sinks + middle - recent))
    weights = dict.fromkeys(order, 1)
    generator = torch.Generator().manual_seed((seed * 1009 + layer.layer) * 1009 + head)
    keys, values = layer.keys[head].double().tolist(), layer.values[head].double().tolist()
    for _ in range(rounds):
        padded = math.ceil(len(order) / block) * block
        coins = torch.rand(padded, generator=generator, dtype=torch.float64).tolist()
        factors = halved(
            [keys[t] for t in order],
            [[x * weights[t] for x in values[t]] for t in order],
            coins,
            block,
            4.0,
        )
        found = sorted(zip(order, factors, strict=True), key=lambda pair: -pair[1])
        for token, factor in found:
            weights[token] *= factor
        order = [token for token, _ in found[: len(order) // 2]]
    verbatim = [*range(sinks), *range(layer.tokens - TAIL - recent, layer.tokens)]
    entries = [(token, weights[token], 2**rounds) for token in order]
    return sorted([*entries, *((token, 1, 1) for token in verbatim)])


@pytest.mark.parametrize(
    ("tokens", "kv_size"), [(200, 40), (97, 40), (45, 40), (300, 33), (60, 17)]
)
@pytest.mark.parametrize("granularity", ["kv_head", "query_head"])
def test_balancekv_step_by_step(tokens: int, kv_size: int, granularity: str) -> None:
    entries = {"name": "balance", "sinks": 4, "block": 16, "seed": 3}
    method = build_method("balancekv", kv_size, entries=entries, granularity=granularity)
    layer = evidence(tokens, tokens)
    kept = method.keep(layer)
    prefix = method.entries.gather(layer, kept)
    stored = method.stored_heads(HEADS, KV_HEADS)
    assert prefix.counts.tolist() == [[kv_size] * stored] and prefix.bias is not None
    assert prefix.entry_bytes == stored * kv_size * 4 * (2 * WIDTH + 1)
    for place, (positions, biases) in enumerate(
        zip(kept.by_head(), prefix.bias.split(kv_size), strict=True)
    ):
        head = place // (stored // KV_HEADS)
        wanted = balanced(layer, head, kv_size, 4, 16, 3)
        assert positions.tolist() == [token for token, _, _ in wanted]
        assert torch.allclose(biases, torch.tensor([math.log(many) for _, _, many in wanted]))
        rows = [layer.values[head, token] * share / many for token, share, many in wanted]
        span = slice(place * kv_size, (place + 1) * kv_size)
        assert torch.allclose(prefix.values[span], torch.stack(rows))
        assert torch.equal(prefix.keys[span], layer.keys[head, positions])


def test_balance_under_unequal_budgets(make_method) -> None:
    """Any allocator decides the numbers; similarities that overflow a float do no harm."""
    entries = {"name": "balance", "sinks": 2, "block": 16}
    method = make_method(
        None, 40, scorer="key_norm", allocator="layer_competition", entries=entries
    )
    layer = evidence(150, 4)
    kept = method.keep(layer)
    assert int(kept.counts.sum()) == 80 and kept.counts.tolist() != [40, 40]
    for head, (count, positions) in enumerate(zip(kept.counts, kept.by_head(), strict=True)):
        wanted = balanced(layer, head, int(count), 2, 16, 42)
        assert positions.tolist() == [token for token, _, _ in wanted]
    layer = evidence(150, 4, scale=30.0)
    assert bool(method.entries.gather(layer, method.keep(layer)).values.isfinite().all())


def merged(layer: Evidence, head: int, kept: list[int], threshold: float, fraction: float):
    keys, values = layer.keys[head].double().tolist(), layer.values[head].double().tolist()

    def norm(row: list[float]) -> float:
        return math.sqrt(sum(x * x for x in row))

    found = []
    for token in sorted(set(range(layer.tokens)) - set(kept)):
        cosines = [
            sum(a * b for a, b in zip(keys[token], keys[k], strict=True))
            / (norm(keys[token]) * norm(keys[k]))
            for k in kept
        ]
        found.append((max(cosines), token, kept[cosines.index(max(cosines))]))
    found.sort(key=lambda each: -each[0])
    sums, totals = {k: list(values[k]) for k in kept}, dict.fromkeys(kept, 1.0)
    for cosine, token, target in found[: int(fraction * len(found))]:
        if cosine < threshold:
            continue
        size = norm(values[token])
        weight = max(cosine, 0) * size / (size + norm(values[target]) + 1e-6)
        totals[target] += weight
        sums[target] = [s + weight * v for s, v in zip(sums[target], values[token], strict=True)]
    return [[s / totals[k] for s in sums[k]] for k in kept]


@pytest.mark.parametrize(("threshold", "fraction"), [(0.0, 1.0), (0.3, 1.0), (-1.0, 0.4), (0, 0)])
@pytest.mark.parametrize("granularity", ["kv_head", "query_head"])
def test_merging_step_by_step(
    threshold: float, fraction: float, granularity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headkv.methods.entries.merge._CHUNK", 13)
    entries = {"name": "merge", "threshold": threshold, "merge_fraction": fraction}
    method = build_method("adakv", 24, entries=entries, granularity=granularity)
    plain = build_method("adakv", 24, granularity=granularity)
    layer = evidence(70, 2)
    kept = method.keep(layer)
    prefix, other = (each.entries.gather(layer, kept) for each in (method, plain))
    assert torch.equal(prefix.keys, other.keys) and prefix.bias is None
    assert prefix.nbytes == other.nbytes and prefix.entry_bytes == other.entry_bytes
    stored = method.stored_heads(HEADS, KV_HEADS)
    wanted = [
        row
        for place, positions in enumerate(kept.by_head())
        for row in merged(
            layer, place // (stored // KV_HEADS), positions.tolist(), threshold, fraction
        )
    ]
    assert torch.allclose(prefix.values.double(), torch.tensor(wanted).double(), atol=1e-5)
    assert torch.equal(prefix.values, other.values) == (fraction == 0)


@pytest.mark.parametrize("backend", [*available(torch.device("cpu")), "one token"])
def test_attention_reads_every_entry_as_so_many_tokens(backend: str) -> None:
    """Against a dense attention over the whole prompt, masked to what stays."""
    entries = {"name": "balance", "sinks": 4, "block": 16}
    method = build_method("balancekv", 30, entries=entries)
    layer = evidence(120, 6)
    kept = method.keep(layer)
    prefix = method.entries.gather(layer, kept)
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, HEADS, 1, WIDTH, generator=generator)
    keys, values = torch.randn(2, 1, KV_HEADS, 3, WIDTH, generator=generator)
    if backend == "one token":
        got = attend_token(query, prefix, keys, values, 0.25)
    else:
        past = attend(query, prefix, 0.25, backend=backend)
        got = join(past, causal_tail(query, keys, values, 0.25))
    for head in range(HEADS):
        own = head // (HEADS // KV_HEADS)
        many = torch.zeros(120, dtype=torch.float64)
        share = torch.zeros(120, dtype=torch.float64)
        for token, counted, stands in balanced(layer, own, 30, 4, 16, 42):
            many[token], share[token] = stands, counted / stands
        every = torch.cat([layer.keys[own], keys[0, own]]).double()
        mask = torch.cat([many, torch.ones(3)]).log()
        weights = (every @ query[0, head, 0].double() * 0.25 + mask).softmax(0)
        scaled = torch.cat([layer.values[own].double() * share[:, None], values[0, own].double()])
        torch.testing.assert_close(got[0, head, 0].double(), weights @ scaled, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["merge", "balance"])
def test_a_model_answers_from_them_alone_and_in_a_batch(name: str, tiny) -> None:
    """Both ways into the cache, and beside a method whose entries are as they were."""
    from headkv.generation.decoding import Stopping, decode

    ids = torch.tensor([[random.Random(7).randint(3, 96) for _ in range(80)]])
    entries = {"name": "balance", "sinks": 4} if name == "balance" else name
    method, other = build_method("snapkv", 30, entries=entries), build_method("snapkv", 30)
    cache = CompressedCache(tiny.config, method)
    with torch.no_grad():
        output = tiny.generate(
            ids,
            past_key_values=cache,
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
        )
    wanted = output.sequences[0, 80:].tolist()
    prefilled = prefill(tiny, {"input_ids": ids})
    caches = [prefilled.compress(each) for each in (other, method, other)]
    bias = 4 * 30 * KV_HEADS * 3 * (name == "balance")
    assert caches[1].kept_bytes == caches[0].kept_bytes + bias
    answers = decode(tiny, prefilled, caches, Stopping(6, ()))
    assert answers[1][0] == wanted and answers[0] == answers[2]
