"""Every method is what it claims: golden budgets, properties of allocators, brute-force selection.

Golden budgets come from an implementation of its own, written here from the papers' formulas in
plain Python floats. With `HEADKV_PUBLISHED_SCORES=DIR`, a folder of the four score files that
HeadKV's authors published, the same runs on them too.
"""

import ast
import json
import math
import os
import re
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from headkv import build_method, load_head_scores, select
from headkv.config import ROOT, load_group
from headkv.evaluation.encoding import Encoder
from headkv.evaluation.tuning import betas
from headkv.methods import Method, compose

CONFIG = LlamaConfig(num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8)
SIZES = [64, 128, 256, 512, 1024]
PUBLISHED = Path(os.environ.get("HEADKV_PUBLISHED_SCORES", os.devnull))
FILES = ["retrieval", "reasoning", *sorted(path.name for path in PUBLISHED.glob("*.json"))]
# The largest caps of the published files at beta 1.005, kv_size 128, window not counted.
LARGEST = {
    "Meta-Llama-3-8B-Instruct_retrieval_heads.json": 6208,
    "Meta-Llama-3-8B-Instruct_retrieval_reasoning_heads.json": 1835,
    "Mistral-7B-Instruct-v0.2_retrieval_heads.json": 6099,
    "Mistral-7B-Instruct-v0.2_retrieval_reasoning_heads.json": 1955,
}
STATIC = ["streamingllm", "snapkv", "pyramidkv", "compresskv", "headkv_r", "headkv_r2"]
STATIC += ["headkv_r_permuted", "headkv_r2_permuted", "headkv_random", "headkv_uniform"]
ALL = [*STATIC, "adakv", "fullkv"]


@pytest.fixture(scope="module", params=FILES)
def score_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published file, or one of the published shape: 70 % zeros, or hardly any."""
    if (PUBLISHED / request.param).is_file():
        return PUBLISHED / request.param
    random = Random(request.param)
    zeros, tests = {"retrieval": (0.7, 107), "reasoning": (0.002, 74)}[request.param]
    heads = [f"{layer}-{head}" for layer in range(32) for head in range(32)]
    random.shuffle(heads)  # files are read by key, never by order
    scores = {
        head: [0.0] * tests
        if random.random() < zeros
        else [random.random() ** 4 * level for _ in range(tests)]
        for head, level in ((head, random.random() ** 8) for head in heads)
    }
    path = tmp_path_factory.mktemp("scores") / f"{request.param}.json"
    path.write_text(json.dumps(scores))
    return path


def golden_caps(path: Path, kv_size: int, beta: float) -> list[list[int]]:
    """PROTOCOL section 2 with Python floats: cap of every head, window not counted."""
    means = {key: math.fsum(each) / len(each) for key, each in json.loads(path.read_text()).items()}
    total = math.fsum(means.values())
    budget = kv_size - 8
    pooled = math.floor(budget / beta)
    pool, floor = pooled * 32 * 32, budget - pooled
    return [
        [round(means[f"{layer}-{head}"] / total * pool + floor) for head in range(32)]
        for layer in range(32)
    ]


@pytest.mark.parametrize("kv_size", SIZES)
def test_golden_budgets_of_headkv(score_file: Path, kv_size: int) -> None:
    """All eight betas, prompts longer than any cap and prompts that clip."""
    kind = "headkv_r2" if "reasoning" in score_file.name else "headkv_r"
    scores = load_head_scores(score_file, CONFIG)
    for beta in betas(kv_size):
        method = build_method(
            kind, kv_size=kv_size, head_scores=scores, beta=beta, protocol="paper"
        )
        caps = golden_caps(score_file, kv_size, beta)
        for prompt in (10**7, 7950, 2000):
            wanted = [[min(cap, prompt - 8) + 8 for cap in row] for row in caps]
            assert method.budgets(32, 32, 8, prompt).tolist() == wanted, (beta, prompt)
        if (kv_size, beta) == (128, 1.005):
            largest = max(map(max, caps))
            assert largest == LARGEST.get(score_file.name, largest)
            assert largest > 1000  # clips at prompts of ordinary length


# Properties of the allocators. What is shared out is `kv_size - window - template` a head.

shapes = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
KINDS = ["skewed", "zeros", "one head", "equal"]


@pytest.fixture(scope="module")
def scores_of(head_scores):
    def scores_of(kind: str, layers: int, heads: int, seed: int = 0) -> torch.Tensor:
        if kind == "skewed":
            return head_scores(layers, heads, seed).double()
        scores = torch.full((layers, heads), 0.5 if kind == "equal" else 0.0, dtype=torch.float64)
        if kind == "one head":
            scores[layers // 2, heads - 1] = 3.0
        return scores

    return scores_of


def build(name: str, kv_size: int, scores: torch.Tensor, **parameters: Any) -> Method:
    """A method of conf/method; CompressKV's layer importance follows the scores too."""

    def resource(what: str, kind: str | None) -> torch.Tensor:
        return scores if what == "head_scores" else scores.sum(1)

    settings = load_group("method", name)
    return compose(name, settings, kv_size=kv_size, resource=resource, **parameters)


@pytest.mark.parametrize("protocol", ["corrected", "paper"])
@pytest.mark.parametrize("name", STATIC)
@settings(max_examples=60, deadline=None)
@given(
    shape=shapes,
    kind=st.sampled_from(KINDS),
    kv_size=st.integers(15, 400),
    prompt=st.integers(1, 3000),
    template=st.integers(0, 6),
    granularity=st.sampled_from(["kv_head", "query_head"]),
)
def test_totals_and_bounds(
    name: str,
    protocol: str,
    shape: tuple[int, int, int],
    kind: str,
    kv_size: int,
    prompt: int,
    template: int,
    granularity: str,
    scores_of,
) -> None:
    """Total exact in `corrected`, every head between what always stays and the prompt."""
    layers, kv_heads, group = shape
    scores = scores_of(kind, layers, kv_heads * group)
    method = build(name, kv_size, scores, protocol=protocol, granularity=granularity)
    got = method.budgets(layers, kv_heads * group, kv_heads, prompt, template)
    assert got.shape == (layers, kv_heads if granularity == "kv_head" else kv_heads * group)
    assert int(got.max()) <= prompt
    if prompt <= kv_size:
        assert (got == prompt).all()
        return
    corrected = protocol == "corrected"
    assert int(got.min()) >= 8 + template + corrected  # the sink besides
    if corrected:
        assert int(got.sum()) == kv_size * got.numel()
    if kind in ("zeros", "equal") and name not in ("pyramidkv", "headkv_random"):
        assert (got == kv_size).all()
    if got.numel() == 1 and corrected:
        assert int(got) == kv_size


@pytest.mark.parametrize("name", STATIC)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt", [100, 5000])
def test_more_cache_never_takes_from_a_head(name: str, kind: str, prompt: int, scores_of) -> None:
    """Monotone in kv_size: exact shares never fall, so whole budgets fall by 1 at the most.

    So in `corrected`, with every fixed prompt, for all allocators but Ada-KV, whose heads compete
    anew at each size. In `paper` PyramidKV's floored step makes deep layers fall by dozens.
    """
    method = [build(name, size, scores_of(kind, 6, 6)) for size in range(15, 48)]
    rows = torch.stack([each.budgets(6, 6, 2, prompt) for each in method])
    assert int(rows.diff(dim=0).min()) >= -1
    sums = rows.sum((1, 2))
    assert (sums.diff() == (12 if prompt == 5000 else sums.diff())).all() and sums.diff().min() >= 0


@pytest.mark.parametrize("name", ["headkv_r", "headkv_r2"])
@pytest.mark.parametrize("granularity", ["kv_head", "query_head"])
@pytest.mark.parametrize("protocol", ["corrected", "paper"])
def test_permuting_heads_permutes_headkv_budgets(
    name: str, granularity: str, protocol: str, scores_of
) -> None:
    """Whole groups over the whole model: budgets know scores, not places."""
    scores = scores_of("skewed", 5, 6, seed=3) + 0.01
    moved = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    groups = scores.view(10, 3)
    before, after = (
        build(name, 100, each, granularity=granularity, protocol=protocol).budgets(5, 6, 2, 900)
        for each in (scores, groups[moved].view(5, 6))
    )
    assert torch.equal(before.view(10, -1)[moved], after.view(10, -1))


@pytest.mark.parametrize("protocol", ["corrected", "paper"])
def test_permuting_layers_permutes_compresskv_budgets(protocol: str) -> None:
    importance = torch.rand(9, generator=torch.Generator().manual_seed(2)).double() ** 3 + 0.01
    moved = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    before, after = (
        build_method(
            "compresskv",
            kv_size=100,
            head_scores=torch.ones(9, 6),
            layer_importance=each,
            protocol=protocol,
        ).budgets(9, 6, 2, 250)
        for each in (importance, importance[moved])
    )
    assert torch.equal(before[moved], after) and before.unique().numel() > 5


@pytest.mark.parametrize("protocol", ["corrected", "paper"])
@pytest.mark.parametrize("name", ALL)
def test_permuting_heads_permutes_the_selection(
    name: str, protocol: str, layer_inputs, scores_of
) -> None:
    """Heads of a layer know nothing of their place: attention decides, Ada-KV's counts included."""
    queries, keys = layer_inputs(120, seed=8)
    moved = torch.tensor([1, 0])
    swapped = queries.view(1, 2, 3, 8, 16)[:, moved].reshape(queries.shape), keys[:, moved]
    if name in ("headkv_random", "headkv_r_permuted", "headkv_r2_permuted"):
        return  # their scores are tied to places, on purpose
    scores = scores_of("skewed", 3, 6)
    swapped_scores = scores.view(3, 2, 3)[:, moved].reshape(3, 6)
    before, after = (
        select(
            build(name, 40, own, protocol=protocol, granularity="kv_head"), *given, 1, num_layers=3
        )[0]
        for own, given in ((scores, (queries, keys)), (swapped_scores, swapped))
    )
    assert [kept.tolist() for kept in after] == [before[1].tolist(), before[0].tolist()]


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(20, 200),
    kv_size=st.integers(12, 60),
    template=st.integers(0, 3),
    kind=st.sampled_from(["random", "flat", "one head"]),
    kv_heads=st.integers(1, 3),
)
def test_adakv_counts(
    tokens: int, kv_size: int, template: int, kind: str, kv_heads: int, layer_inputs
) -> None:
    """Exact in every layer: random attention, ties everywhere, one head taking all."""
    queries, keys = layer_inputs(tokens, kv_heads * 2, kv_heads, seed=tokens)
    if kind != "random":
        queries = torch.zeros_like(queries)
    if kind == "one head":
        queries[:, 0] = 9 * keys[:, 0, 5]
    for granularity, stored in (("kv_head", kv_heads), ("query_head", kv_heads * 2)):
        method = build_method("adakv", kv_size=kv_size, granularity=granularity)
        kept = select(method, queries, keys, 0, template_tokens=template)[0]
        counts = [len(each) for each in kept]
        assert sum(counts) == min(kv_size, tokens) * stored and max(counts) <= tokens
        if tokens > kv_size:
            assert min(counts) >= 8 + template + 1


@pytest.mark.parametrize("granularity", ["kv_head", "query_head"])
@pytest.mark.parametrize("protocol", ["corrected", "paper"])
@pytest.mark.parametrize("name", ALL)
def test_selection_equals_brute_force(
    name: str, protocol: str, granularity: str, brute_force_scores, layer_inputs, scores_of
) -> None:
    """Of every method: its counts, filled with the tokens that loops rank highest."""
    queries, keys = layer_inputs(90, seed=11)
    scores = scores_of("skewed", 3, 6)
    method = build(name, 30, scores, protocol=protocol, granularity=granularity)
    kept = [
        each.tolist()
        for each in select(method, queries, keys, 1, num_layers=3, template_tokens=4)[0]
    ]
    if name == "fullkv":
        assert kept == [list(range(90))] * len(kept)
        return
    if name == "adakv":
        counts = [len(each) for each in kept]
    else:
        counts = method.budgets(3, 6, 2, 90, 4)[1].tolist()
    if name == "streamingllm":
        ranks = [[100.0 if t < 4 else t / 100 for t in range(78)]] * len(counts)
    elif name == "compresskv":
        best = sorted(range(6), key=lambda head: -float(scores[1, head]))[:4]
        raw = plain_window_scores(queries[0], keys[0], 4)
        mean = [sum(raw[head][t] for head in best) for t in range(78)]
        padded = [0.0, 0.0, *mean, 0.0, 0.0]
        ranks = [[sum(padded[t : t + 5]) for t in range(78)]] * len(counts)
    else:
        ranks = brute_force_scores(queries[0], keys[0], 4, granularity)
    sink = protocol == "corrected"
    for row, count, got in zip(ranks, counts, kept, strict=True):
        order = sorted(range(78), key=lambda t, row=row: (t != 0 and sink, -round(row[t], 9), t))
        if not sink:
            order = sorted(range(78), key=lambda t, row=row: (-round(row[t], 9), t))
        assert got == sorted(order[: count - 12]) + list(range(78, 90))


def plain_window_scores(
    queries: torch.Tensor, keys: torch.Tensor, template: int
) -> list[list[float]]:
    """The window's attention to each candidate, summed over its rows, no pooling."""
    last = keys.shape[1] - template - 8
    found = []
    for head in range(6):
        rows = [
            torch.softmax(
                keys[head // 3, : last + w + 1].double() @ queries[head, w].double() / 4, 0
            )
            for w in range(8)
        ]
        found.append(torch.stack([row[:last] for row in rows]).sum(0).tolist())
    return found


def test_uniform_control_is_snapkv_exactly(head_scores, layer_inputs) -> None:
    queries, keys = layer_inputs(150)
    for protocol in ("corrected", "paper"):
        for kv_size in (15, 50, 101):
            uniform = build("headkv_uniform", kv_size, head_scores(), protocol=protocol)
            snapkv = build("snapkv", kv_size, head_scores(), protocol=protocol)
            pairs = zip(
                select(uniform, queries, keys, 2)[0],
                select(snapkv, queries, keys, 2)[0],
                strict=True,
            )
            assert all(torch.equal(a, b) for a, b in pairs)


def test_random_control_is_seeded_and_knows_nothing_of_the_file(scores_of) -> None:
    one, same = (build("headkv_random", 64, scores_of(kind, 3, 6)) for kind in ("skewed", "zeros"))
    other = build("headkv_random", 64, scores_of("skewed", 3, 6), seed=1)
    assert torch.equal(one.allocator.scores, same.allocator.scores)
    assert not torch.equal(one.allocator.scores, other.allocator.scores)
    assert one.allocator.scores.unique().numel() == 18
    some = one.for_layers([0, 2])
    assert torch.equal(some.allocator.scores, one.allocator.scores[[0, 2]])
    assert some.budgets(2, 6, 2, 500).sum() == 64 * 4


# Parity: where the protocols differ is a row of docs/parity.md, and nowhere else.

PROOFS: dict[str, list[str]] = yaml.safe_load(
    (Path(__file__).parent / "parity_proofs.yaml").read_text()
)


def test_every_parity_decision_is_proven() -> None:
    """A row without a proof fails here; a proof of another file must exist under its name."""
    text = (ROOT / "docs" / "parity.md").read_text()
    text = re.sub(r"(?s)\n## Metrics\n.*?(?=\n## )", "", text)  # test_metrics_parity.py's
    rows = re.findall(r"^\| \d{4}-\d\d-\d\d \| (.+?) \|", text, re.MULTILINE)
    assert len(rows) >= 11
    assert [row for row in rows if row not in PROOFS] == []
    for proof in {proof for row in rows for proof in PROOFS[row]}:
        file, _, name = proof.partition("::")
        tree = ast.parse((ROOT / "tests" / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, proof


@pytest.mark.parametrize("name", ALL)
def test_protocols_agree_where_no_row_says_otherwise(name: str, layer_inputs) -> None:
    """Same storage, no template, nothing to round or clip, a sink that wins anyway: same tokens."""
    queries, keys = layer_inputs(400, seed=2)
    queries[..., 0] += 16  # every head looks at token 0 first
    keys[..., 0], keys[:, :, 0, 0] = 0, 3
    # 18 heads share a pool of 18 * 16 = 288 as whole tokens: 16 times these.
    scores = torch.tensor([1, 2, 0, 1, 1, 1, 3, 0, 0, 1, 1, 1, 1, 1, 2, 0, 1, 1.0]).view(3, 6)
    parameters: dict[str, Any] = {"granularity": "query_head"}
    if name == "adakv":
        parameters["floor_ratio"] = 0.0
    if name == "headkv_random":
        return  # its scores are never whole; `test_headkv_rounding` bounds the difference
    if name.startswith("headkv"):
        parameters["beta"] = 2.0
    one, other = (
        [
            kept.tolist()
            for layer in range(3)
            for kept in select(
                build(name, 40, scores, protocol=protocol, **parameters),
                queries,
                keys,
                layer,
                num_layers=3,
            )[0]
        ]
        for protocol in ("corrected", "paper")
    )
    assert one == other and all(kept[0] == 0 for kept in one)


def test_headkv_rounding(head_scores) -> None:
    """Without clipped heads the two differ by less than one token a head."""
    for name in ("headkv_r", "headkv_random"):
        paper, corrected = (
            build(name, 100, head_scores(), protocol=protocol, granularity="query_head").budgets(
                3, 6, 2, 10**6
            )
            for protocol in ("paper", "corrected")
        )
        assert int((paper - corrected).abs().max()) <= 1
        assert int(corrected.sum()) == 1800


def test_paper_stores_a_list_per_query_head(scores_of) -> None:
    scores = scores_of("skewed", 3, 6)
    for name in ALL:
        methods = [build(name, 64, scores, protocol=each) for each in ("corrected", "paper")]
        stored = [each.stored_heads(6, 2) for each in methods]
        assert stored == ([2, 2] if name in ("fullkv", "compresskv") else [2, 6])


def test_paper_may_evict_the_sink(layer_inputs) -> None:
    queries, keys = layer_inputs(100, seed=1)
    keys[:, :, 0] = -3 * queries.mean((0, 1, 2))
    firsts = [
        [
            kept[0].item()
            for kept in select(
                build_method("snapkv", kv_size=12, protocol=protocol, kernel_size=1),
                queries,
                keys,
                0,
            )[0]
        ]
        for protocol in ("paper", "corrected")
    ]
    assert any(first > 0 for first in firsts[0]) and set(firsts[1]) == {0}


def test_protocol_settings() -> None:
    paper, corrected = (load_group("protocol", name) for name in ("paper", "corrected"))
    assert paper == {
        "name": "paper",
        "chat_template": False,
        "all_end_tokens": False,
        "keep_template": False,
        "min_new_tokens": 1,
    }
    assert corrected == {
        "name": "corrected",
        "chat_template": True,
        "all_end_tokens": True,
        "keep_template": True,
        "min_new_tokens": 0,
    }


@pytest.mark.parametrize(("protocol", "ends"), [("paper", (2,)), ("corrected", (2, 7))])
def test_paper_stops_at_the_tokenizers_own_end_token(protocol: str, ends: tuple[int, ...]) -> None:
    settings: Any = SimpleNamespace(protocol=SimpleNamespace(**load_group("protocol", protocol)))
    loaded: Any = SimpleNamespace(
        name="m",
        tokenizer=SimpleNamespace(eos_token_id=2, chat_template=None),
        model=SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[2, 7])),
    )
    benchmark: Any = SimpleNamespace(name="b")
    assert Encoder(settings, benchmark, loaded).ends == ends
