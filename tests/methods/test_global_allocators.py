"""Allocators that look across heads and layers, against plain loops in float64 written here.

Positions are compared entry by entry, on random tensors and on a tiny model's prompt.
"""

import math
from dataclasses import dataclass

import pytest
import torch

from headkv import prefill
from headkv.generation.prefill import kept_positions
from headkv.methods import Evidence, Method

HEADS, KV_HEADS, LAYERS, WINDOW = 6, 2, 3, 8
GROUP = HEADS // KV_HEADS


@dataclass
class Plain:
    """What a layer's observation window sees, worked out query by query.

    Attributes:
        weights: attention without the window's own columns, `[query head][query][candidate]`.
        values: `[kv head, token, width]`, float64.
        last: attention of the last query to every token, `[query head][token]`.
    """

    weights: list[list[list[float]]]
    values: torch.Tensor
    last: list[list[float]]

    @classmethod
    def of(cls, evidence: Evidence) -> "Plain":
        queries, keys = evidence.queries.double(), evidence.keys.double()
        visible = evidence.tokens - evidence.template_tokens
        weights, last = [], []
        for head in range(HEADS):
            rows = []
            for place in range(WINDOW):
                query = queries[head, queries.shape[1] - WINDOW + place]
                seen = visible - WINDOW + place + 1
                logits = [
                    float(query @ keys[head // GROUP, token]) / query.shape[0] ** 0.5
                    for token in range(seen)
                ]
                most = max(logits)
                parts = [math.exp(logit - most) for logit in logits]
                rows.append([part / sum(parts) for part in parts])
            weights.append([row[: visible - WINDOW] for row in rows])
            last.append(rows[-1])
        assert evidence.values is not None
        return cls(weights, evidence.values.double(), last)

    def mean(self, head: int) -> list[float]:
        return [sum(column) / WINDOW for column in zip(*self.weights[head], strict=True)]

    def variance(self, head: int) -> list[float]:
        means = self.mean(head)
        return [
            sum((x - m) ** 2 for x in column) / (WINDOW - 1)
            for column, m in zip(zip(*self.weights[head], strict=True), means, strict=True)
        ]


def pooled(row: list[float], width: int, how: str) -> list[float]:
    half, out = width // 2, []
    for place in range(len(row)):
        near = row[max(place - half, 0) : place + half + 1]
        out.append(max(near) if how == "max" else sum(near) / width)
    return out


def grouped(rows: list[list[float]], how: str) -> list[list[float]]:
    out = []
    for first in range(0, HEADS, GROUP):
        columns = list(zip(*rows[first : first + GROUP], strict=True))
        out.append([max(c) if how == "max" else sum(c) / GROUP for c in columns])
    return out


def rounded(shares: list[float], total: int, low: int, high: int) -> list[int]:
    """Shares moved up or down together until, cut to the bounds, they sum to the total."""
    least, most = -1e7, 1e7
    for _ in range(120):
        middle = (least + most) / 2
        if sum(min(max(s + middle, low), high) for s in shares) < total:
            least = middle
        else:
            most = middle
    cut = [min(max(s + most, low), high) for s in shares]
    whole = [math.floor(s + 1e-9) for s in cut]
    order = sorted(range(len(cut)), key=lambda place: whole[place] - cut[place])
    for place in order[: total - sum(whole)]:
        whole[place] += 1
    return whole


def chosen(scores: list[float], count: int, tokens: int) -> list[int]:
    """The sink, the best others, the window."""
    order = sorted(range(1, len(scores)), key=lambda token: (-scores[token], token))
    return sorted([0, *order[: count - 1], *range(len(scores), tokens)])


def winners(scores: list[list[float]], total: int) -> list[int]:
    places = [(-s, head, token) for head, row in enumerate(scores) for token, s in enumerate(row)]
    won = [0] * len(scores)
    for _, head, _ in sorted(places)[:total]:
        won[head] += 1
    return won


def snapkv(layer: Plain) -> list[list[float]]:
    return grouped([pooled(layer.mean(head), 7, "max") for head in range(HEADS)], "mean")


def cake(layers: list[Plain], mean: int) -> tuple[list, list]:
    scores, wants = [], []
    for layer in layers:
        rows = []
        for head in range(HEADS):
            both = zip(layer.mean(head), layer.variance(head), strict=True)
            rows.append(pooled([m + 200 * v for m, v in both], 5, "avg"))
        scores.append(grouped(rows, "mean"))
        entropy = -sum(
            a * math.log(a + 1e-10) for head in layer.weights for row in head for a in row
        )
        wants.append(entropy * sum(v for head in range(HEADS) for v in layer.variance(head)))
    shares = [want / sum(wants) * mean * len(layers) for want in wants]
    rows = rounded(shares, mean * len(layers), 1, len(scores[0][0]))
    return scores, [[row] * KV_HEADS for row in rows]


def lava(layers: list[Plain], mean: int) -> tuple[list, list]:
    scores, weights = [], []
    for layer in layers:
        rows = []
        for head in range(HEADS):
            largest = max(float(value.abs().sum()) for value in layer.values[head // GROUP])
            rows.append([largest * s for s in pooled(layer.mean(head), 7, "max")])
        scores.append(grouped(rows, "max"))
        flat = [s for row in scores[-1] for s in row]
        weights.append(-sum(s / sum(flat) * math.log(s / sum(flat)) for s in flat))
        weights[-1] /= math.log(len(flat))
    total, limit = mean * KV_HEADS * len(layers), len(scores[0][0])
    shares = [weight / sum(weights) * total for weight in weights]
    counts = []
    for rows, size in zip(scores, rounded(shares, total, KV_HEADS, limit * KV_HEADS), strict=True):
        mixed = [0.8 * won + 0.2 * size / KV_HEADS for won in winners(rows, size)]
        counts.append(rounded(mixed, size, 1, limit))
    return scores, counts


def simlayerkv(layers: list[Plain], mean: int) -> tuple[list, list]:
    candidates = len(layers[0].weights[0][0])
    least, lazy = mean // 2, []
    for layer in layers:
        on = [sum(row[:4]) + sum(row[candidates - (least - 4) :]) for row in layer.last]
        lazy.append(sum(on) / HEADS)
    counts, left = [least] * len(layers), (mean - least) * len(layers)
    for place in sorted(range(len(layers)), key=lambda place: lazy[place]):
        more = min(candidates - least, left)
        counts[place] += more
        left -= more
    scores = [candidates if t < 4 else t for t in range(candidates)]
    return [[scores] * KV_HEADS] * len(layers), [[count] * KV_HEADS for count in counts]


def composite(layers: list[Plain], mean: int) -> tuple[list, list]:
    scores = [snapkv(layer) for layer in layers]
    ranked = []
    for rows in scores:
        best = [sorted(row, reverse=True) for row in rows]
        ranked.append([sum(column) / KV_HEADS for column in zip(*best, strict=True)])
    ranked[0] = [max(column) for column in zip(*ranked, strict=True)]
    won = winners(ranked, mean * len(layers))
    rows = rounded(won, mean * len(layers), 1, len(ranked[0]))
    return scores, [[row] * KV_HEADS for row in rows]


def protected(layers: list[Plain], mean: int) -> tuple[list, list]:
    """kvpress's Ada-KV: each head's best fifth is safe, the layer's best others stay."""
    scores, counts = [snapkv(layer) for layer in layers], []
    for rows in scores:
        safe = int(0.2 * mean)
        marked = []
        for row in rows:
            order = sorted(range(len(row)), key=lambda token: (-row[token], token))[:safe]
            marked.append([math.inf if t in order else s for t, s in enumerate(row)])
        counts.append(rounded(winners(marked, mean * KV_HEADS), mean * KV_HEADS, 1, len(rows[0])))
    return scores, counts


def floorless(layers: list[Plain], mean: int) -> tuple[list, list]:
    scores = [snapkv(layer) for layer in layers]
    total = mean * KV_HEADS
    won = [rounded(winners(rows, total), total, 1, len(rows[0])) for rows in scores]
    return scores, won


PROTECTED = {"name": "layer_competition", "floor": "protected", "normalise": False}
FLOORLESS = {"name": "layer_competition", "floor_ratio": 0, "normalise": False}
COMPOSITE = {"name": "model_competition", "composite": True}
CASES = {
    "cake": (("cake", {}), cake),
    "lava": (("lava", {}), lava),
    "simlayerkv": (("simlayerkv", {}), simlayerkv),
    "composite": (("snapkv", {"allocator": COMPOSITE}), composite),
    "protected": (("snapkv", {"allocator": PROTECTED}), protected),
    "floorless": (("snapkv", {"allocator": FLOORLESS}), floorless),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, make_method) -> tuple[Method, object]:
    (name, changes), plain = CASES[request.param]
    return make_method(name, 30, **changes), plain


def wanted(plain, layers: list[Evidence], kv_size: int) -> list[list[list[int]]]:
    tokens, tail = layers[0].tokens, WINDOW + layers[0].template_tokens
    scores, counts = plain([Plain.of(layer) for layer in layers], kv_size - tail)
    assert sum(map(sum, counts)) == (kv_size - tail) * KV_HEADS * len(layers)
    return [
        [chosen(row, count, tokens) for row, count in zip(*layer, strict=True)]
        for layer in zip(scores, counts, strict=True)
    ]


@pytest.mark.parametrize(("tokens", "template", "seed"), [(90, 0, 0), (70, 3, 1), (34, 0, 2)])
def test_random_tensors(case, tokens: int, template: int, seed: int) -> None:
    method, plain = case
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int, scale: float) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    layers = [
        Evidence(
            drawn(HEADS, WINDOW, 16, scale=1 + layer),
            drawn(KV_HEADS, tokens, 16, scale=1),
            layer,
            drawn(KV_HEADS, tokens, 16, scale=1),
            LAYERS,
            template,
        )
        for layer in range(LAYERS)
    ]
    got = [[head.tolist() for head in kept.by_head()] for kept in method.keep_model(layers)]
    assert got == wanted(plain, layers, 30)


def test_a_tiny_model(case, tiny) -> None:
    method, plain = case
    ids = torch.randint(3, 97, (1, 60), generator=torch.Generator().manual_seed(5))
    prefilled = prefill(tiny, {"input_ids": ids}, methods=[method])
    got = [[head.tolist() for head in layer] for layer in kept_positions(prefilled, method)]
    assert got == wanted(plain, [layer.evidence[0] for layer in prefilled.layers], 30)


def test_a_threshold_makes_layers_lazy(make_method) -> None:
    """All busy, or all lazy: everyone the same; the total stands in both."""
    layers = [
        Evidence(torch.randn(HEADS, 8, 16), torch.randn(KV_HEADS, 80, 16), layer, num_layers=LAYERS)
        for layer in range(LAYERS)
    ]
    for threshold in (0.0, 1.0):
        allocator = {"name": "lazy_layers", "threshold": threshold}
        kept = make_method("simlayerkv", 30, allocator=allocator).keep_model(layers)
        assert all(layer.counts.tolist() == [30, 30] for layer in kept)


SCORES = [[5, 1, 3, 2, 2, 2], [0, 0, 0, 9, 9, 9], [4, 4, 4, 1, 2, 3]]


@pytest.mark.parametrize("granularity", ["kv_head", "query_head"])
def test_binary_by_hand(granularity: str, make_method) -> None:
    """Best heads whole, in order of score; the next takes what is left; all others stream."""
    table, group = torch.tensor(SCORES), 3 if granularity == "kv_head" else 1
    means = [sum(row[i : i + group]) / group for row in SCORES for i in range(0, 6, group)]
    method = make_method("duoattention", 38, scores=table, granularity=granularity)
    for tokens in (39, 80, 1000):
        got = method.budgets(3, 6, 2, tokens).flatten().tolist()
        left, counts = len(means) * 30, [0] * len(means)
        for head in range(len(means)):
            counts[head], left = 15, left - 15
        for head in sorted(range(len(means)), key=lambda head: (-means[head], head)):
            more = min(tokens - 8 - 15, left)
            counts[head], left = counts[head] + more, left - more
        assert got == [count + 8 for count in counts]
        assert sum(got) == 38 * len(means)


@pytest.mark.parametrize("alpha", [1, 2, 5])
@pytest.mark.parametrize("protocol", ["paper", "corrected"])
def test_cokv_by_hand(alpha: int, protocol: str, make_method) -> None:
    means = [sum(row[i : i + 3]) / 3 for row in SCORES for i in (0, 3)]
    level = sorted(means)[alpha - 1]
    above = [max(mean - level, 0) for mean in means]
    allocator = {"name": "cokv", "alpha": alpha}
    for shift in (0, 7):  # only differences count
        method = make_method(
            "cokv",
            40,
            scores=torch.tensor(SCORES) + shift,
            allocator=allocator,
            protocol=protocol,
            granularity="kv_head",
        )
        got = method.budgets(3, 6, 2, 2000).flatten().tolist()
        paper = [math.floor(x / sum(above) * 32 * 6 + 1e-9) + 8 for x in above]
        if protocol == "paper":
            assert got == paper
        else:
            assert sum(got) == 40 * 6
            assert all(abs(a - max(b, 9)) <= 6 for a, b in zip(got, paper, strict=True))


def test_defaults_that_are_ours(make_method) -> None:
    """What a published method's yaml sets otherwise than its paper, as docs/parity.md says."""
    methods = {name: make_method(name, 64) for name in ("cake", "lava", "cokv", "balancekv")}
    assert all(method.window_size == 8 for method in methods.values())
    cake, balance = methods["cake"].allocator, methods["balancekv"].entries
    assert (cake.number("tau1"), cake.number("tau2")) == (1, 1)
    assert methods["cokv"].parameter("allocator.alpha") == 10
    assert balance.number("sinks") == 8 and balance.number("block") == 128
    plain = Evidence(torch.randn(6, 8, 16), torch.randn(2, 90, 16), 0, torch.randn(2, 90, 16), 1)
    assert torch.equal(  # a window of one has no variance
        make_method("cake", 30, window_size=1).scorer.scores(plain, 2),
        make_method(
            "cake", 30, scorer={"name": "cake", "window_size": 1, "gamma": 0}
        ).scorer.scores(plain, 2),
    )
