"""What every method, and every pairing of a scorer and an allocator, must hold: found by name.

A yaml in `conf/method`, `conf/scorer` or `conf/allocator`, here or in an installed plug-in, is
enough to be tested.
"""

import gc
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headkv import CompressedCache, UserError, prefill
from headkv.config import load_group, names
from headkv.generation.prefill import kept_positions
from headkv.methods import Evidence, Method
from headkv.methods.entries.base import Entries
from headkv.methods.evidence import SECOND_PASS
from headkv.methods.scorers.base import Scorer

LAYERS, HEADS, KV_HEADS = 3, 6, 2
# All scorers under one allocator of each scope, and all allocators over one scorer.
SCOPES = ["uniform", "layer_competition", "model_competition"]
PAIRS = sorted(
    {*product(names("scorer"), SCOPES), *product(("window", "key_norm"), names("allocator"))}
)
METHODS = names("method")
ALL = [(name, None, None) for name in METHODS] + [(None, *pair) for pair in PAIRS]


@pytest.fixture(scope="module")
def build(make_method):
    """A method of `ALL`."""

    def build(which, kv_size: int, **parameters: object) -> Method:
        name, scorer, allocator = which
        return make_method(name, kv_size, scorer=scorer, allocator=allocator, **parameters)

    return build


def evidence(tokens: int, template: int = 0, seed: int = 0, scale: float = 1.0) -> list[Evidence]:
    """Three layers of a random prompt, with everything that a scorer may read."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    return [
        Evidence(
            drawn(HEADS, tokens - template, 16),
            drawn(KV_HEADS, tokens, 16),
            layer,
            drawn(KV_HEADS, tokens, 16),
            LAYERS,
            template,
            unrotate=lambda states, positions: states,
            mean_rotation=lambda positions, dim: torch.eye(dim) / 2,
            project=lambda: torch.ones(HEADS, 16, 8),
            second={what: drawn(HEADS, tokens).abs() for what in sorted(SECOND_PASS)},
            ends=torch.rand(tokens, generator=generator) < 0.1,
        )
        for layer in range(LAYERS)
    ]


@pytest.mark.parametrize("protocol", ["corrected", "paper"])
@pytest.mark.parametrize("which", ALL, ids=str)
def test_totals_bounds_and_what_always_stays(which, protocol: str, build) -> None:
    for granularity, template, tokens in product(("kv_head", "query_head"), (0, 5), (60, 200)):
        method = build(which, 40, granularity=granularity, protocol=protocol)
        kept = method.keep_model(evidence(tokens, template))
        stored = method.stored_heads(HEADS, KV_HEADS)
        tail = list(range(tokens - template - method.window_size, tokens))
        for layer in kept:
            assert layer.counts.shape == (stored,)
            for positions in (head.tolist() for head in layer.by_head()):
                assert positions == sorted(set(positions)) and positions[-1] < tokens
                assert positions[-len(tail) :] == tail
                assert protocol == "paper" or positions[0] == 0
        total = sum(int(layer.counts.sum()) for layer in kept)
        if protocol == "corrected":
            assert total == (method.kv_size or tokens) * LAYERS * stored


@pytest.mark.parametrize("which", ALL, ids=str)
def test_prompts_up_to_the_kv_size_are_kept_whole(which, build) -> None:
    for tokens in (1, 7, 40):
        for layer in build(which, 40).keep_model(evidence(tokens)):
            assert [head.tolist() for head in layer.by_head()] == [list(range(tokens))] * KV_HEADS


@dataclass(frozen=True, eq=False)
class Tied(Scorer):
    """All tokens are worth the same."""

    name = "tied"

    def scores(self, evidence: Evidence, stored: int) -> torch.Tensor:
        return torch.ones(stored, evidence.candidates(self.window_size))


@pytest.mark.parametrize("allocator", names("allocator"))
def test_ties_go_to_the_earlier_token(allocator: str, build) -> None:
    own = build((None, "window", allocator), 40)
    method = Method(Tied(), own.allocator, own.kv_size)
    for layer in method.keep_model(evidence(100)):
        for positions in (head.tolist() for head in layer.by_head()):
            count = len(positions) - 8
            assert positions == [*range(count), *range(92, 100)]


@pytest.mark.parametrize("scorer", names("scorer"))
def test_scorers_are_finite_deterministic_and_write_nothing(scorer: str, build) -> None:
    method = build((None, scorer, "uniform"), 40)
    for stored, scale in ((KV_HEADS, 1.0), (HEADS, 0.0)):
        for layer in evidence(80, 3, scale=scale):
            before = layer.keys.clone(), layer.attention(method.window_size).clone()
            first = method.scorer.scores(layer, stored)
            assert first.shape == (stored, layer.candidates(method.window_size))
            assert first.dtype == torch.float32 and bool(torch.isfinite(first).all())
            assert torch.equal(first, method.scorer.scores(layer, stored))
            assert torch.equal(before[0], layer.keys)
            method.keep(layer)
            assert torch.equal(before[1], layer.attention(method.window_size))


@pytest.mark.parametrize("group", ["method", "scorer", "allocator", "entries"])
def test_yamls_and_classes_bear_the_same_names(group: str, build) -> None:
    for name in names(group):
        assert set(load_group(group, name)) - {"_target_"} or group != "method"
        if group == "method":
            assert build((name, None, None), 64).name == name
        elif group in ("scorer", "allocator"):
            pair = (name, "uniform") if group == "scorer" else ("window", name)
            assert getattr(build((None, *pair), 64), group).name == name


def same(one: CompressedCache, other: CompressedCache) -> bool:
    return all(
        torch.equal(a.counts, b.counts)
        and torch.equal(a.keys, b.keys)
        and torch.equal(a.values, b.values)
        and (a.bias is None) == (b.bias is None)
        and (a.bias is None or torch.equal(a.bias, b.bias))
        for a, b in zip(one.prefixes, other.prefixes, strict=True)
    )


def prompt(tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 97, (1, tokens), generator=torch.Generator().manual_seed(seed))


def ends_of(inputs) -> torch.Tensor:
    """Any few tokens, as where sentences end."""
    return inputs["input_ids"] % 10 == 0


def stock(model, method: Method, inputs, template: int = 0) -> CompressedCache:
    """The cache as a stock forward pass leaves it, or says that it cannot."""
    cache = CompressedCache(model.config, method, template, ends_of(inputs))
    with torch.no_grad():
        if method.second_pass and inputs["input_ids"].shape[1] > (method.kv_size or 0):
            with pytest.raises(UserError, match=r"second pass.*methods=\[method\]"):
                model(**inputs, past_key_values=cache)
            return prefill(model, inputs, template, [method]).compress(method)
        model(**inputs, past_key_values=cache)
    return cache


@pytest.mark.parametrize("which", ALL, ids=str)
def test_both_ways_into_the_cache_agree(which, build, tiny) -> None:
    """Stock forward, and prefill once for any method, for this one, or for several."""
    inputs = {"input_ids": prompt(90)}
    method, other = build(which, 30), build(("snapkv", None, None), 70, window_size=60)
    wanted = stock(tiny, method, inputs, 2)
    for methods in ([method], [method, other], *([] if method.second_pass else [None])):
        shared = prefill(tiny, inputs, 2, methods, ends=ends_of(inputs))
        assert same(wanted, shared.compress(method))


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(1, 160),
    window=st.integers(1, 120),
    template=st.integers(0, 4),
    which=st.sampled_from(ALL),
)
def test_both_ways_agree_at_every_length_and_window(
    tokens: int, window: int, template: int, which, build, tiny
) -> None:
    """No limit on the window: 64 queries were the most that a shared prefill kept."""
    template = min(template, tokens - 1)
    size = window + template + 4
    method = build(which, size, window_size=window)
    inputs = {"input_ids": prompt(tokens, window)}
    wanted = stock(tiny, method, inputs, template)
    for methods in ([method], *([] if method.second_pass else [None])):
        prefilled = prefill(tiny, inputs, template, methods, ends=ends_of(inputs))
        assert same(wanted, prefilled.compress(method))


@pytest.mark.parametrize("which", ALL, ids=str)
def test_a_padded_batch_equals_single_prompts(which, build, tiny) -> None:
    method, rows = build(which, 30), [prompt(70, 1), prompt(41, 2), prompt(20, 3)]
    padded = [
        torch.cat([torch.zeros(1, 70 - row.shape[1], dtype=torch.long), row], 1) for row in rows
    ]
    mask = torch.stack([torch.arange(70) >= 70 - row.shape[1] for row in rows]).long()
    inputs = {"input_ids": torch.cat(padded), "attention_mask": mask}
    batch = prefill(tiny, inputs, methods=[method], ends=ends_of(inputs))
    for place, row in enumerate(rows):
        single = prefill(tiny, {"input_ids": row}, 0, [method], ends=row % 10 == 0)
        alone = kept_positions(single, method)
        together = kept_positions(batch, method, row=place)
        assert [[head.tolist() for head in layer] for layer in together] == [
            [head.tolist() for head in layer] for layer in alone
        ]


@pytest.mark.parametrize("which", ALL, ids=str)
def test_kept_positions_are_those_of_the_cache(which, build, tiny) -> None:
    """What the inspector shows is what the cache holds, values and all."""
    method, inputs = build(which, 30), {"input_ids": prompt(80)}
    prefilled = prefill(tiny, inputs, methods=[method], ends=ends_of(inputs))
    cache = prefilled.compress(method)
    for layer, (heads, prefix) in enumerate(
        zip(kept_positions(prefilled, method), cache.prefixes, strict=True)
    ):
        assert [len(head) for head in heads] == cache.kept_tokens[0, layer].tolist()
        full = prefilled.layers[layer]
        group = len(heads) // full.keys.shape[1]
        sides = [(full.keys, prefix.keys), (full.values, prefix.values)]
        if type(method.entries) is not Entries:  # it rewrites values
            sides.pop()
        for side, held in sides:
            wanted = [side[0, place // group, head] for place, head in enumerate(heads)]
            assert torch.equal(torch.cat(wanted), held)


@pytest.fixture
def young() -> Iterator[None]:
    """What is there already is left out of garbage collection, which takes half a second else."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("which", ALL, ids=str)
def test_nothing_outlives_a_prompt(which, build, tiny, young) -> None:
    """Neither the method, which holds its tables, nor the keys of the prompt."""
    method = build(which, 30)
    inputs = {"input_ids": prompt(80)}
    cache = stock(tiny, method, inputs)
    prefilled = prefill(tiny, inputs, methods=[method], ends=ends_of(inputs))
    second = prefilled.compress(method)
    held = [weakref.ref(each) for each in (method, method.allocator, cache, prefilled)]
    held += [weakref.ref(layer.keys) for layer in prefilled.layers]
    del method, cache, prefilled, second
    gc.collect()
    assert [each() for each in held] == [None] * len(held)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda scores: scores[:, 1:], "gave scores of shape"),
        (lambda scores: scores * float("nan"), "gave scores that are not finite"),
    ],
)
def test_a_scorer_that_goes_wrong_is_named(change, words: str, build) -> None:
    class Wrong(Tied):
        name = "wrong"

        def scores(self, evidence: Evidence, stored: int) -> torch.Tensor:
            return change(super().scores(evidence, stored))

    with pytest.raises(UserError, match=f"mine's scorer wrong {words}"):
        Method(Wrong(), build(("snapkv", None, None), 40).allocator, 40, name="mine").keep(
            evidence(90)[0]
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda counts: counts * 2, "candidates in all"),
        (lambda counts: counts + 10_000, "budgets from"),
        (lambda counts: counts - 200, "budgets from"),
        (lambda counts: counts[:, :1], "of shape"),
        (lambda counts: counts.double(), "float64 budgets"),
    ],
)
def test_an_allocator_that_goes_wrong_is_named(change, words: str, build) -> None:
    own = build(("snapkv", None, None), 40)

    class Wrong(type(own.allocator)):
        name = "wrong"

        def budgets(self, room):
            return change(super().budgets(room))

    with pytest.raises(UserError, match=f"mine's allocator wrong gave .*{words}"):
        Method(own.scorer, Wrong(), 40, name="mine").keep(evidence(900)[0])
