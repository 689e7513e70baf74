"""Every scorer against its definition in plain float64 loops, on random tensors and on a model."""

from typing import Any

import pytest
import torch
from torch import Tensor

from headkv import prefill
from headkv.cache.module_parts import ModuleParts
from headkv.methods import Evidence, Method, build_method

HEADS, KV_HEADS, DIM, TEMPLATE, KV_SIZE, TOKENS = 6, 2, 16, 3, 40, 110
CASES: list[tuple[str, dict[str, Any]]] = [
    ("key_norm", {}),
    ("tova", {}),
    ("observed", {}),
    ("observed", {"divided": False}),
    ("keydiff", {}),
    ("lagkv", {"lag": 16}),
    ("lagkv", {"lag": 64}),
    ("expected_attention", {"future": 20, "epsilon": 0.01}),
    ("leverage", {"sketch": 12, "seed": 3}),
    ("noncausal", {"chunk": 32}),
    ("compactor", {"sketch": 12, "chunk": 32}),
    ("cur", {}),
    ("cap", {"future": 20}),
    ("dropkv", {}),
    ("defensive", {"share": 0.6}),
    ("defensive", {"share": 1.0}),
    ("span", {"longest": 9}),
    ("span", {"longest": 9, "wide": "avg", "join": "tie"}),
    ("clause", {"longest": 9}),
    ("clause", {"longest": 9, "novelty": 2.0, "token": 0.0}),
    ("chunk", {"length": 7}),
]
RANKED = {
    "critical": ("window", {"name": "critical", "base": "window"}),
    "h2o": ("observed", {"name": "observed", "divided": False, "recent_ratio": 0.5}),
}


@pytest.fixture(scope="module")
def layers(tiny, plain) -> list[tuple[Evidence, Any]]:
    """A random layer, and one of a model's prompt, for the product and for the definitions."""
    generator = torch.Generator().manual_seed(5)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    module = tiny.model.layers[1].self_attn
    parts, random_wo = ModuleParts(module, HEADS), drawn(HEADS, DIM, 8)
    ends = torch.rand(TOKENS, generator=generator) < 0.15
    random = Evidence(
        drawn(HEADS, TOKENS - TEMPLATE, DIM),
        drawn(KV_HEADS, TOKENS, DIM),
        1,
        drawn(KV_HEADS, TOKENS, DIM),
        3,
        TEMPLATE,
        unrotate=parts.unrotate,
        mean_rotation=parts.mean_rotation,
        project=lambda: random_wo,
        ends=ends,
    )
    ids = torch.randint(3, 97, (1, TOKENS), generator=generator)
    prompt = prefill(tiny, {"input_ids": ids}, TEMPLATE, ends=ends[None])
    tiny_wo = module.o_proj.weight.T.detach().view(HEADS, DIM, -1)
    return [
        (
            each,
            plain.Layer(
                each.queries.double(),
                each.keys.double(),
                each.values.double(),
                wo.double(),
                ends.tolist(),
                1,
                KV_SIZE,
            ),
        )
        for each, wo in ((random, random_wo), (prompt.layers[1].evidence[0], tiny_wo))
    ]


def built(scorer: dict[str, Any], allocator: str = "uniform", **settings: str) -> Method:
    return build_method(None, KV_SIZE, scorer=scorer, allocator=allocator, **settings)


def positions(plain, rows, counts: list[int], evidence: Evidence, corrected: bool) -> Any:
    """What heads keep by these rankings."""
    return [
        plain.chosen(row, count, corrected, evidence.tokens, len(row))
        for row, count in zip(rows, counts, strict=True)
    ]


@pytest.mark.parametrize("granularity", ["kv_head", "query_head"])
@pytest.mark.parametrize(("name", "parameters"), CASES, ids=str)
def test_scores_and_kept_positions(
    name: str, parameters: dict[str, Any], granularity: str, layers, plain
) -> None:
    protocol = "corrected" if granularity == "kv_head" else "paper"
    method = built({"name": name, **parameters}, granularity=granularity, protocol=protocol)
    stored = method.stored_heads(HEADS, KV_HEADS)
    for evidence, layer in layers:
        layer.window, layer.parameters = method.window_size, parameters
        wanted = getattr(plain, name)(layer, stored)
        exact = torch.tensor(wanted, dtype=torch.float64)
        got = method.scorer.scores_within(evidence, stored, layer.mean).double()
        assert torch.allclose(got / exact.abs().max(), exact / exact.abs().max(), atol=2e-5)
        kept = [head.tolist() for head in method.keep(evidence).by_head()]
        counts = [layer.mean] * stored
        assert kept == positions(plain, wanted, counts, evidence, protocol == "corrected")


@pytest.mark.parametrize("allocator", ["uniform", "layer_competition"])
@pytest.mark.parametrize("name", RANKED)
def test_rankings_that_know_the_head_s_budget(name: str, allocator: str, layers, plain) -> None:
    """The allocator decides by the base's scores; the last word is had within each head."""
    base, scorer = RANKED[name]
    method = built(scorer, allocator, protocol="paper", granularity="kv_head")
    for evidence, layer in layers:
        layer.window, layer.parameters = method.window_size, {"divided": False}
        scores = getattr(plain, base)(layer, KV_HEADS)
        own = build_method(
            None,
            KV_SIZE,
            scorer={"name": base, "window_size": method.window_size}
            | ({"divided": False} if base == "observed" else {}),
            allocator=allocator,
            protocol="paper",
            granularity="kv_head",
        )
        kept = method.keep(evidence)
        assert kept.counts.tolist() == own.keep(evidence).counts.tolist()
        counts = (kept.counts - method.window_size - TEMPLATE).tolist()
        rows = getattr(plain, name)(layer, scores, counts)
        found = [head.tolist() for head in kept.by_head()]
        assert found == positions(plain, rows, counts, evidence, False)
        assert found != [head.tolist() for head in own.keep(evidence).by_head()]
