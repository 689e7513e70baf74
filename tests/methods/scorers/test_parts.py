"""What scorers share: sinks, bases that others work over, spans, and refusals by name."""

from dataclasses import dataclass

import pytest
import torch

from headkv import CompressedCache, UserError, build_method, prefill, select
from headkv.evaluation.grid import _name
from headkv.methods import Evidence
from headkv.methods.scorers.base import Scorer, protected
from headkv.methods.scorers.chunk import ChunkScorer
from headkv.methods.scorers.critical import CriticalScorer
from headkv.methods.scorers.key_norm import KeyNormScorer
from headkv.methods.scorers.span import spans_of
from headkv.methods.scorers.window import WindowScorer


def test_spans_end_behind_their_marks_and_after_the_longest() -> None:
    ends = torch.zeros(14, dtype=torch.bool)
    ends[[0, 3, 4]] = True
    assert spans_of(ends, 4).tolist() == [0, 1, 1, 1, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5]


def test_first_tokens_are_as_good_as_the_best_of_any_head() -> None:
    scores = torch.tensor([[1.0, 5.0, 9.0], [2.0, 3.0, 9.0]])
    assert protected(scores, 2, 4).tolist() == [[5, 5, 1, 5], [5, 5, 2, 3]]
    assert protected(scores[:, :0], 4, 3).tolist() == [[0, 0, 0]] * 2


def over(name: str, base: object, **parameters: object):
    scorer = {"name": name, "base": base, **parameters}
    return build_method(None, 64, scorer=scorer, allocator="uniform")


def test_a_base_is_named_or_described_and_may_have_a_base_itself() -> None:
    method = over("chunk", {"name": "critical", "base": "expected_attention"}, window_size=5)
    assert method.needs == {"query_statistics", "values", "output_projection"}
    described = method.identity["scorer"]
    assert described["base"]["base"]["name"] == "expected_attention"
    assert described["base"]["window_size"] == described["base"]["base"]["window_size"] == 5
    assert over("chunk", "tova").identity != over("chunk", "keydiff").identity
    wide = build_method("criticalkv", 64, kernel_size=21, window_size=16)
    assert wide.scorer.base.kernel_size == 21 and wide.scorer.base.window_size == 16
    assert isinstance(CriticalScorer().base, WindowScorer) and ChunkScorer().needs == frozenset()
    assert [_name("tova"), _name({"name": "critical", "base": {"name": "tova"}})] == [
        "tova",
        "critical-tova",
    ]


def test_a_base_reads_its_files_and_knows_its_model(make_method) -> None:
    method = make_method(
        None, 40, scorer={"name": "critical", "base": "best_heads"}, allocator="uniform"
    )
    assert method.scorer.base.head_scores.shape == (3, 6)
    assert method.for_layers([0, 2]).scorer.base.head_scores.shape == (2, 6)
    with pytest.raises(UserError, match="head scores"):
        method.check_model(3, 8)


@dataclass(frozen=True, eq=False)
class Drawn(Scorer):
    """Scores at random, to a power: the higher it is, the fewer tokens have any."""

    name = "drawn"
    power: float = 1.0

    def scores(self, evidence: Evidence, stored: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(evidence.layer)
        candidates = evidence.candidates(self.window_size)
        return torch.rand(stored, candidates, generator=generator) ** self.power


def test_scores_below_zero_are_shifted_before_a_product(layer_inputs) -> None:
    """Key norms as a base: of equal keys, those whose values add more win the second stage."""
    _, keys = layer_inputs(60)
    equal = keys[0].clone()
    equal[:, :30] = equal[:, :1]
    values = torch.ones(2, 60, 16)
    values[:, 20:25] = 9
    evidence = Evidence(
        torch.ones(6, 8, 16), equal, 0, values, project=lambda: torch.ones(6, 16, 4)
    )
    scorer = CriticalScorer(base=KeyNormScorer(), first_ratio=0.0)
    scores = scorer.scores(evidence, 2)
    ranking = scorer.ranking(evidence, scores, torch.tensor([52, 52]))
    assert bool((scores < 0).all()) and bool((ranking >= 0).all())
    assert bool((ranking[:, 20:25] > ranking[:, 10:15]).all())


@pytest.mark.parametrize("stored", [2, 6])
@pytest.mark.parametrize("power", [0.1, 1.0, 40.0])
def test_the_second_stage_leaves_out_no_token_that_could_win(power: float, stored: int) -> None:
    """Products are worked out for few tokens; the best of all of them are found all the same."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(2, 1500, 16, generator=generator) * torch.rand(1500, 1) ** 3
    parts = torch.randn(6, 16, 24, generator=generator)
    parts[:, :, 0] *= 5  # so that a bound by the 2-norm is far off
    evidence = Evidence(
        torch.randn(6, 8, 16), torch.randn(2, 1500, 16), 0, values, project=lambda: parts
    )
    scorer = CriticalScorer(base=Drawn(power=power))
    scores = scorer.scores(evidence, stored)
    counts = torch.tensor([1, 2, 3, 40, 80, 30])[-stored:]
    found = scorer.ranking(evidence, scores, counts)
    norms = torch.stack([(values[h // 3] @ parts[h]).abs().sum(-1) for h in range(6)])
    products = (scores + 1e-4) * norms[:, :1492].view(stored, -1, 1492).mean(1)
    for head, count in enumerate(counts.tolist()):
        first = set(scores[head].topk(count // 2).indices.tolist())
        others = [t for t in products[head].argsort(descending=True).tolist() if t not in first]
        wanted = first | set(others[: count - count // 2])
        assert set(found[head].topk(count).indices.tolist()) == wanted
    assert power > 1 or bool((found == -1).any())


@pytest.mark.parametrize(
    ("base", "words"),
    [
        (3, "base=3"),
        ("nothing", "unknown scorer 'nothing'"),
        ({"kernel_size": 5}, "scorer has no name"),
        ({"name": "window", "kernel_size": 4}, "odd widths"),
    ],
)
def test_bases_that_there_are_not(base: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        over("critical", base)


@pytest.mark.parametrize("name", ["dropkv", "defensive", "span"])
def test_even_widths_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="kernel_size=6; allowed: odd widths"):
        build_method(None, 64, scorer={"name": name, "kernel_size": 6}, allocator="uniform")


def test_what_a_scorer_was_not_given_is_named(tiny, layer_inputs) -> None:
    queries, keys = layer_inputs(60)
    for name, words in (("cur", "value of every token"), ("observed", "query of every token")):
        method = build_method(None, 30, scorer=name, allocator="uniform")
        with pytest.raises(UserError, match=words):
            select(method, queries, keys, 0)
    method = build_method(None, 30, scorer="span", allocator="uniform")
    inputs = {"input_ids": torch.arange(3, 63)[None]}
    with pytest.raises(UserError, match=r"sentences end .*headkv.span_ends"):
        tiny(**inputs, past_key_values=CompressedCache(tiny.config, method))
    with pytest.raises(UserError, match=r"sentences end .*headkv.span_ends"):
        prefill(tiny, inputs, methods=[method]).compress(method)


def test_lagkv_is_streaming_where_the_budget_holds_no_partition(layer_inputs) -> None:
    queries, keys = layer_inputs(100)
    method = build_method(None, 30, scorer="lagkv", allocator="uniform")
    for head in select(method, queries, keys, 0, values=keys)[0]:
        assert head.tolist() == [*range(4), *range(74, 100)]


def test_compactor_weighs_leverage_by_what_is_dropped(layer_inputs, tiny) -> None:
    prefilled = prefill(tiny, {"input_ids": torch.arange(3, 83)[None]})
    evidence = prefilled.layers[0].evidence[0]
    scores = {}
    for size, blend in ((20, None), (60, None), (20, 0.25), (20, 0.75)):
        scorer = {"name": "compactor", "blend": blend}
        own = build_method(None, size, scorer=scorer, allocator="uniform").scorer
        scores[size, blend] = own.scores_within(evidence, 2, size - 4)
    assert torch.equal(scores[60, None], scores[20, 0.25])
    assert torch.equal(scores[20, None], scores[20, 0.75])
    assert not torch.equal(scores[20, None], scores[60, None])
