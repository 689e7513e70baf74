"""Every method of conf/method: budgets, selection and what `corrected` promises."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headkv import UserError, build_method, select
from headkv.config import load_group, names
from headkv.methods import Method

METHODS = [name for name in names("method") if name != "fullkv"]
STATIC = [name for name in METHODS if name != "adakv"]


@pytest.fixture(scope="module")
def build(head_scores):
    def build(name: str, kv_size: int, layers: int = 3, **parameters: object) -> Method:
        if "kind" in load_group("method", name):
            parameters.setdefault("head_scores", head_scores(layers))
        return build_method(name, kv_size=kv_size, **parameters)

    return build


def test_every_yaml_is_a_method(build) -> None:
    published = {"streamingllm", "snapkv", "pyramidkv", "adakv", "headkv_r", "headkv_r2"}
    assert published | {"compresskv", "fullkv"} <= set(names("method"))
    for name in names("method"):
        assert isinstance(build(name, 64), Method)


@pytest.mark.parametrize("granularity", ["kv_head", "query_head"])
@pytest.mark.parametrize("name", STATIC)
@settings(max_examples=40, deadline=None)
@given(
    kv_size=st.integers(15, 300),
    prompt=st.integers(1, 3000),
    template=st.integers(0, 6),
)
def test_corrected_budgets_are_exact(
    name: str, granularity: str, kv_size: int, prompt: int, template: int, build
) -> None:
    method = build(name, kv_size, granularity=granularity)
    got = method.budgets(3, 6, 2, prompt, template)
    stored = 2 if granularity == "kv_head" else 6
    assert got.shape == (3, stored)
    assert int(got.sum()) == min(kv_size, prompt) * 3 * stored
    assert int(got.max()) <= prompt
    if prompt > kv_size:
        assert int(got.min()) >= 8 + template + 1  # window, template and the sink


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("granularity", ["kv_head", "query_head"])
def test_selection_keeps_budget_sink_window_and_template(
    name: str, granularity: str, build, layer_inputs
) -> None:
    queries, keys = layer_inputs(200, batch=2)
    method = build(name, 40, granularity=granularity)
    rows = select(method, queries, keys, 1, num_layers=3, template_tokens=5)
    for row in rows:
        for kept in row:
            positions = kept.tolist()
            assert positions == sorted(set(positions))
            assert positions[0] == 0
            assert positions[-13:] == list(range(187, 200))
    counts = torch.tensor([[len(kept) for kept in row] for row in rows])
    if name == "adakv":
        assert (counts.sum(1) == 40 * counts.shape[1]).all()
    else:
        assert (counts == method.budgets(3, 6, 2, 200, 5)[1]).all()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("protocol", ["corrected", "paper"])
def test_short_prompts_are_kept_whole(name: str, protocol: str, build, layer_inputs) -> None:
    queries, keys = layer_inputs(40)
    method = build(name, 40, protocol=protocol)
    for kept in select(method, queries, keys, 0, num_layers=3)[0]:
        assert kept.tolist() == list(range(40))


@pytest.mark.parametrize("granularity", ["kv_head", "query_head"])
@pytest.mark.parametrize("template", [0, 4])
def test_snapkv_equals_brute_force(
    granularity: str, template: int, brute_force_scores, build, layer_inputs
) -> None:
    queries, keys = layer_inputs(70, seed=3)
    scores = brute_force_scores(queries[0], keys[0], template, granularity)
    kept = select(
        build("snapkv", 30, granularity=granularity), queries, keys, 0, template_tokens=template
    )[0]
    for head, row in enumerate(scores):
        # The sink first, then by score; equal scores (pooling makes many) by position.
        ranked = sorted(range(len(row)), key=lambda t: (t != 0, -round(row[t], 9), t))
        tail = list(range(70 - 8 - template, 70))
        assert kept[head].tolist() == sorted(ranked[: 30 - 8 - template]) + tail


def test_ties_are_broken_by_position(build) -> None:
    queries, keys = torch.zeros(1, 6, 8, 16), torch.randn(1, 2, 100, 16)
    for kept in select(build("snapkv", 20), queries, keys, 0)[0]:
        assert kept.tolist() == [*range(12), *range(92, 100)]


def test_streamingllm_keeps_sinks_and_the_latest(build, layer_inputs) -> None:
    queries, keys = layer_inputs(100)
    for kept in select(build("streamingllm", 20), queries, keys, 0)[0]:
        assert kept.tolist() == [0, 1, 2, 3, *range(84, 100)]


@pytest.mark.parametrize(
    ("kv_size", "mean_kept"), [(64, 71.5), (128, 133.5), (256, 259.5), (512, 526), (1024, 1029)]
)
def test_pyramidkv_paper_overshoots_as_published(kv_size: int, mean_kept: float, build) -> None:
    method = build("pyramidkv", kv_size, protocol="paper")
    got = method.budgets(32, 32, 8, 8000)
    assert got.shape == (32, 32)
    assert float(got.double().mean()) == mean_kept


def test_pyramidkv_falls_with_depth(build) -> None:
    rows = build("pyramidkv", 128).budgets(32, 32, 8, 4000)[:, 0]
    assert (rows.diff() <= 0).all() and rows[0] > rows[-1]


@pytest.mark.parametrize("beta", [1.01, 1.2, 2.0])
def test_headkv_paper_follows_the_formula(beta: float, head_scores) -> None:
    scores = head_scores(4, 8)
    method = build_method("headkv_r", kv_size=128, head_scores=scores, beta=beta, protocol="paper")
    got = method.budgets(4, 8, 2, 500)
    pooled = int(120 / beta)
    total = float(scores.double().sum())
    for layer in range(4):
        for head in range(8):
            share = float(scores[layer, head].double()) / total
            wanted = round(share * pooled * 32 + (120 - pooled))
            assert int(got[layer, head]) == min(wanted, 492) + 8


def test_headkv_gives_surplus_of_clipped_heads_to_others() -> None:
    scores = torch.tensor([[10.0, 1.0], [1.0, 0.0]])
    lost = build_method("headkv_r", kv_size=64, head_scores=scores, protocol="paper")
    kept = build_method("headkv_r", kv_size=64, head_scores=scores, granularity="query_head")
    assert int(lost.budgets(2, 2, 2, 100).sum()) < 64 * 4
    assert int(kept.budgets(2, 2, 2, 100).sum()) == 64 * 4
    assert int(kept.budgets(2, 2, 2, 100).max()) == 100


def test_permuted_scores_keep_their_shape(build) -> None:
    plain, permuted = build("headkv_r2", 64), build("headkv_r2_permuted", 64)
    assert not torch.equal(plain.head_scores, permuted.head_scores)
    assert torch.equal(
        plain.head_scores.flatten().sort().values, permuted.head_scores.flatten().sort().values
    )


def test_uniform_scores_are_snapkv(build, layer_inputs) -> None:
    queries, keys = layer_inputs(150)
    uniform = build_method("headkv_r", kv_size=50, head_scores=torch.ones(3, 6))
    pairs = zip(
        select(uniform, queries, keys, 2)[0],
        select(build("snapkv", 50), queries, keys, 2)[0],
        strict=True,
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_adakv_matches_its_definition(brute_force_scores, build, layer_inputs) -> None:
    """Paper form, query heads: floor plus the head's places among the layer's best."""
    queries, keys = layer_inputs(90, seed=5)
    scores = torch.tensor(brute_force_scores(queries[0], keys[0], 0, "query_head"))
    mean = 32
    share = scores.sort(descending=True).values[:, :mean].sum(1) / scores.sum(1)
    weighted = (scores * share[:, None]).flatten().tolist()
    best = sorted(range(len(weighted)), key=lambda i: -weighted[i])[: 6 * mean]
    wanted = [
        round(0.8 * sum(i // 82 == head for i in best) + int(0.2 * mean)) for head in range(6)
    ]
    kept = select(build("adakv", 40, protocol="paper"), queries, keys, 0)[0]
    # Pooling ties at the threshold may fall either way by one token.
    assert all(abs(len(k) - 8 - w) <= 1 for k, w in zip(kept, wanted, strict=True))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: build_method("snapkvv", kv_size=64), "unknown method 'snapkvv'"),
        (lambda: build("snapkv", 8), "kv_size=8 does not exceed"),
        (lambda: build("snapkv", 64, protocol="papr"), "unknown protocol"),
        (lambda: build("snapkv", 64, betta=2), "no parameter 'betta'"),
        (lambda: build("snapkv", 64, kernel_size=6), "even"),
        (lambda: build("headkv_r", 64, beta=0.5), "beta=0.5"),
        (lambda: build_method("headkv_r", kv_size=64), "without head scores"),
        (lambda: build("headkv_r", 64).budgets(5, 6, 2, 500), "3 layers, the model has 5"),
        (lambda: build("adakv", 64).budgets(3, 6, 2, 500), "depend on the prompt's attention"),
        (lambda: build("snapkv", 12).budgets(3, 6, 2, 500, 5), "always kept"),
    ],
)
def test_mistakes_are_named(call, words: str, build) -> None:
    with pytest.raises(UserError, match=words) as raised:
        call()
    assert "\n" not in str(raised.value) and "allowed" in str(raised.value)
