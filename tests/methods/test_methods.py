"""Methods that have a published formula: their budgets and tokens against it."""

import re

import pytest
import torch

from headkv import CompressedCache, UserError, build_method, select
from headkv.config import CONF, load_group, names


@pytest.fixture(scope="module")
def build(make_method):
    return make_method


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
    one, other = plain.allocator.scores.flatten(), permuted.allocator.scores.flatten()
    assert not torch.equal(one, other)
    assert torch.equal(one.sort().values, other.sort().values)


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
    ("name", "parameters", "words"),
    [
        ("snapkvv", {}, "unknown method 'snapkvv'"),
        ("snapkv", {"kv_size": 8}, "kv_size=8 does not exceed"),
        ("snapkv", {"kv_size": None}, "kv_size=None; allowed: a whole number"),
        ("snapkv", {"kv_size": 0.2}, "not a ratio"),
        ("snapkv", {"kv_size": "64"}, "kv_size='64'"),
        ("snapkv", {"protocol": "papr"}, "unknown protocol"),
        ("snapkv", {"betta": 2}, "no parameter 'betta'"),
        ("snapkv", {"kernel_size": 6}, "kernel_size=6.*odd"),
        ("snapkv", {"window_size": 8.5}, "window_size"),
        ("snapkv", {"pooling": "min"}, "pooling"),
        ("snapkv", {"scorer": "windows"}, "unknown scorer 'windows'"),
        ("snapkv", {"allocator": {"beta": 2}}, "has no name"),
        ("streamingllm", {"sinks": -1}, "sinks"),
        ("pyramidkv", {"steepness": 0}, "steepness"),
        ("pyramidkv", {"steepness": -1}, "steepness"),
        ("adakv", {"floor_ratio": -3}, "floor_ratio"),
        ("headkv_r", {"beta": 0.5, "head_scores": torch.ones(3, 6)}, "beta"),
        ("headkv_r", {"control": "shuffled", "head_scores": torch.ones(3, 6)}, "control"),
        ("headkv_r", {}, "without retrieval head scores"),
        ("headkv_r", {"head_scores": "file.json"}, "cannot read head scores"),
        ("headkv_r", {"head_scores": torch.ones(6)}, "head scores of shape"),
        ("compresskv", {"head_scores": torch.ones(3, 6)}, "without layer importance"),
    ],
)
def test_mistakes_are_named(name: str, parameters: dict[str, object], words: str) -> None:
    """Wrong names, types and bounds, from Python as from a yaml: one line that says what to do."""
    with pytest.raises(UserError, match=words) as raised:
        build_method(name, **{"kv_size": 64, **parameters})
    assert "\n" not in str(raised.value) and "allowed" in str(raised.value)


def test_budgets_that_cannot_be_told_are_refused(build) -> None:
    for call, words in (
        (lambda: build("headkv_r", 64).budgets(5, 6, 2, 500), "3 layers, the model has 5"),
        (lambda: build("adakv", 64).budgets(3, 6, 2, 500), "depend on the prompt's attention"),
        (lambda: build("snapkv", 12).budgets(3, 6, 2, 500, 5), "always kept"),
    ):
        with pytest.raises(UserError, match=words):
            call()


def test_scores_of_another_model_are_refused_by_the_cache(build, tiny) -> None:
    """Not told before: budgets of five layers on a model of three kept 18 tokens instead of 64."""
    for layers, heads in ((5, 6), (3, 8), (2, 6)):
        with pytest.raises(UserError, match="head scores for"):
            CompressedCache(tiny.config, build("headkv_r2", 64, layers, heads))


def test_a_method_is_composed_from_the_command_of_its_parts() -> None:
    method = build_method(
        scorer="key_norm", allocator={"name": "layer_competition", "floor_ratio": 0.5}, kv_size=90
    )
    assert method.name == "key_norm+layer_competition"
    assert (method.scorer.name, method.allocator.floor_ratio) == ("key_norm", 0.5)
    other = build_method("snapkv", kv_size=90, scorer="random", seed=3)
    assert other.scorer.seed == 3 and other.allocator.name == "uniform"
    assert other.identity["scorer"] == {"name": "random", "window_size": 8, "seed": 3}


def test_numeric_parameters_can_be_changed_by_path(build) -> None:
    method = build("headkv_r2", 64)
    assert method.parameter("allocator.beta") == 1.2
    other = method.with_parameter("allocator.beta", 2.0)
    assert (other.allocator.beta, method.allocator.beta) == (2.0, 1.2)
    permuted = build("headkv_r2_permuted", 64)
    same = permuted.with_parameter("allocator.beta", 5.0)
    assert torch.equal(permuted.allocator.scores, same.allocator.scores)
    for path, words in (
        ("allocator.kind", "no parameter to choose 'kind'"),
        ("allocator.betta", "no parameter to choose"),
        ("budget.beta", "unknown part of a method"),
    ):
        with pytest.raises(UserError, match=words):
            method.with_parameter(path, 2.0)
    with pytest.raises(UserError, match="beta"):
        method.with_parameter("allocator.beta", 0.5)


def test_every_published_method_names_its_paper() -> None:
    ours = {"fullkv", "clausekv"}
    for name in set(names("method")) - ours:
        if "control_of" not in load_group("method", name)["display"]:
            text = (CONF / "method" / f"{name}.yaml").read_text()
            assert re.search(r"arXiv \d{4}\.\d{5}|openreview \w+", text), name
