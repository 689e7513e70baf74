"""What scorers may look at, each against a plain implementation, on real attention modules."""

import pytest
import torch

from headkv import UserError, build_method, prefill
from headkv.cache.module_parts import ModuleParts
from headkv.methods import sums
from headkv.methods.evidence import Evidence, pool, reduce_groups
from headkv.methods.scorers.window import WindowScorer


def recorded(model, tokens: int = 50) -> tuple[list, list[torch.Tensor], list[torch.Tensor]]:
    """A prefill of all queries, and what every attention module took and gave."""
    given: list[torch.Tensor] = []
    taken: list[torch.Tensor] = []
    hooks = []
    for layer in model.model.layers:
        attention = layer.self_attn
        hooks.append(attention.q_proj.register_forward_hook(lambda m, i, o: given.append(o)))
        hooks.append(attention.o_proj.register_forward_hook(lambda m, i, o: taken.append(i[0])))
    ids = torch.randint(3, 97, (1, tokens), generator=torch.Generator().manual_seed(0))
    prefilled = prefill(model, {"input_ids": ids})
    for hook in hooks:
        hook.remove()
    return prefilled.layers, given, taken


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "olmo2"])
def test_queries_are_rotated_back(family: str, make_decoder) -> None:
    """RoPE is undone: mean and covariance are those of what the projection gave."""
    model = make_decoder(family)
    layers, given, _ = recorded(model)
    for layer, projected in zip(layers, given, strict=True):
        evidence = layer.evidence[0]
        heads = evidence.query_heads
        plain = projected[0].unflatten(-1, (heads, -1)).transpose(0, 1).double()
        if hasattr(model.model.layers[0].self_attn, "q_norm"):
            norm = model.model.layers[layer.layer].self_attn.q_norm
            plain = norm(projected)[0].unflatten(-1, (heads, -1)).transpose(0, 1).double()
        statistics = evidence.query_statistics()
        centred = plain - plain.mean(1, keepdim=True)
        covariance = centred.transpose(1, 2) @ centred / plain.shape[1]
        assert torch.allclose(statistics.mean.double(), plain.mean(1), atol=1e-5)
        assert torch.allclose(statistics.covariance.double(), covariance, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma2", "gemma3_text", "granite"])
def test_the_mean_rotation_is_the_mean_of_rotations(family: str, make_decoder) -> None:
    """A vector rotated to some positions by the model itself, which `unrotate` undoes, averaged."""
    model = make_decoder(family)
    module = model.model.layers[1].self_attn
    parts = ModuleParts(module, 4)
    positions = torch.arange(50, 70)
    vectors = torch.randn(4, 1, 16, generator=torch.Generator().manual_seed(2))
    mean = vectors[:, 0] @ parts.mean_rotation(positions, 16)
    rotate, cos, sin = parts._rotation(positions)
    many = vectors.expand(4, 20, 16)[None]
    each = rotate(many, many, cos, sin)[0][0]
    assert torch.allclose(each.mean(1), mean, atol=1e-6)
    assert torch.allclose(parts.unrotate(each, positions), many[0], atol=1e-5)


def test_keys_are_rotated_back(make_decoder) -> None:
    model = make_decoder("llama")
    given = []
    projection = model.model.layers[2].self_attn.k_proj
    hook = projection.register_forward_hook(lambda m, i, o: given.append(o))
    prefilled = prefill(model, {"input_ids": torch.randint(3, 97, (1, 30))})
    hook.remove()
    plain = given[0][0].unflatten(-1, (2, -1)).transpose(0, 1)
    assert torch.allclose(prefilled.layers[2].evidence[0].plain_keys, plain, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3"])
def test_the_output_projection_is_by_head(family: str, make_decoder) -> None:
    """Each head's output times its part, summed over heads, is what the module gives."""
    model = make_decoder(family)
    seen = []
    projection = model.model.layers[1].self_attn.o_proj
    hook = projection.register_forward_hook(lambda m, i, o: seen.append((i[0], o)))
    prefilled = prefill(model, {"input_ids": torch.randint(3, 97, (1, 30))})
    hook.remove()
    evidence = prefilled.layers[1].evidence[0]
    given, wanted = seen[0]
    heads = given[0].unflatten(-1, (evidence.query_heads, -1)).transpose(0, 1)
    got = (heads @ evidence.output_projection).sum(0)
    assert torch.allclose(got, wanted[0], atol=1e-5)


def test_accumulated_attention_is_the_sum_over_all_queries(monkeypatch) -> None:
    monkeypatch.setitem(sums._ROOM, "cpu", 0)  # 16 queries at a time
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(4, 40, 8, generator=generator)
    keys = torch.randn(2, 43, 8, generator=generator)
    evidence = Evidence(queries, keys, 0, template_tokens=3, softcap=5.0)
    wanted = torch.zeros(4, 43, dtype=torch.float64)
    for head in range(4):
        for place in range(40):
            logits = keys[head // 2, : place + 1].double() @ queries[head, place].double() / 8**0.5
            wanted[head, : place + 1] += torch.softmax(5 * torch.tanh(logits / 5), 0)
    assert torch.allclose(evidence.accumulated_attention.double(), wanted, atol=1e-5)


@pytest.mark.parametrize("aggregation", ["mean", "max", "sum"])
@pytest.mark.parametrize("order", ["pool_first", "reduce_first"])
@pytest.mark.parametrize("reduce", ["mean", "max", "sum"])
def test_window_options_follow_their_definition(
    aggregation: str, order: str, reduce: str, layer_inputs
) -> None:
    queries, keys = (each[0] for each in layer_inputs(60, seed=4))
    evidence = Evidence(queries, keys, 0)
    rows = torch.zeros(6, 8, 52, dtype=torch.float64)
    for head in range(6):
        for place in range(8):
            logits = keys[head // 3, : 53 + place].double() @ queries[head, place].double() / 4
            rows[head, place] = torch.softmax(logits, 0)[:52]
    join = {"mean": lambda x: x.mean(1), "max": lambda x: x.amax(1), "sum": lambda x: x.sum(1)}
    wanted = join[aggregation](rows)
    smooth = [[max(row[max(t - 2, 0) : t + 3]) for t in range(52)] for row in wanted.tolist()]
    if order == "pool_first":
        wanted = join[reduce](torch.tensor(smooth).view(2, 3, 52))
    else:
        joined = join[reduce](wanted.view(2, 3, 52)).tolist()
        wanted = torch.tensor([[max(r[max(t - 2, 0) : t + 3]) for t in range(52)] for r in joined])
    scorer = WindowScorer(
        kernel_size=5, aggregation=aggregation, group_order=order, group_reduce=reduce
    )
    assert torch.allclose(scorer.scores(evidence, 2).double(), wanted.double(), atol=1e-6)


def test_evidence_is_worked_out_once(layer_inputs) -> None:
    queries, keys = (each[0] for each in layer_inputs(60))
    evidence = Evidence(queries, keys, 0)
    assert evidence.attention(8) is evidence.attention(8)
    assert evidence.pooled(8, "mean", 7, "max") is evidence.pooled(8, "mean", 7, "max")
    assert evidence.attention(4).shape == (6, 56)
    assert torch.equal(pool(evidence.attention(8), 1, "max"), evidence.attention(8))
    assert reduce_groups(evidence.attention(8), 2, "sum").shape == (2, 52)


def test_what_was_not_recorded_is_named(tiny) -> None:
    """A prefill for one method keeps its window only; a wider one says what to do."""
    ids = torch.randint(3, 97, (1, 60))
    small, wide = build_method("snapkv", 30), build_method("snapkv", 50, window_size=40)
    lean = prefill(tiny, {"input_ids": ids}, methods=[small])
    assert lean.layers[0].queries.shape[2] == 8
    with pytest.raises(UserError, match=r"window_size=40, and 8 queries .*methods=\[method\]"):
        lean.compress(wide)
    evidence = lean.layers[0].evidence[0]
    with pytest.raises(UserError, match="was not recorded"):
        _ = evidence.accumulated_attention
    for missing in ("query_statistics", "noncausal_attention"):
        with pytest.raises(UserError, match="was not recorded"):
            getattr(evidence, missing)()
    with pytest.raises(UserError, match="was not recorded"):
        evidence.second_pass("repetition")
