"""CompressKV: tokens and budgets against loops, layer importance against two separate caches."""

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from headkv import CompressedCache, Stopping, UserError, build_method, decode, prefill, select
from headkv.cache import plan_layers
from headkv.calibration.layer_errors import layer_errors, output_projections
from headkv.calibration.layer_importance import ImportanceTests, average
from headkv.config import CONF
from headkv.evaluation.grid import build_cells
from headkv.evaluation.settings import Settings
from headkv.models.loading import model_folder
from headkv.models.prompts import EncodedPrompt
from headkv.models.spec import load_spec
from headkv.storage.head_scores import architecture_id
from headkv.storage.layer_importance import load_layer_importance, save_layer_importance

IMPORTANCE = torch.tensor([5.0, 1.0, 2.0])


@pytest.fixture(scope="module")
def build(head_scores):
    def build(kv_size: int, layers: int = 3, **parameters: object):
        parameters.setdefault("head_scores", head_scores(layers))
        parameters.setdefault("layer_importance", "uniform")
        return build_method("compresskv", kv_size=kv_size, **parameters)

    return build


def published_budgets(importance: list[float], kv_size: int) -> list[int]:
    """The formula and the corrections by one, from PROTOCOL section 4, written with loops."""
    layers, floor, cap = len(importance), min(32, kv_size), 3 * kv_size
    shares = [value / sum(importance) for value in importance]
    rows = [round(share * (kv_size - floor) * layers) + floor for share in shares]
    rows = [min(max(row, floor), cap) for row in rows]
    best_first = sorted(range(layers), key=lambda layer: (-shares[layer], layer))
    while sum(rows) != kv_size * layers:
        for layer in best_first if sum(rows) < kv_size * layers else best_first[::-1]:
            short = kv_size * layers - sum(rows)
            if short > 0 and rows[layer] < cap:
                rows[layer] += 1
            elif short < 0 and rows[layer] > floor:
                rows[layer] -= 1
            elif short == 0:
                break
    return rows


weights = st.lists(st.floats(0.01, 1) | st.floats(1, 100), min_size=1, max_size=20)


@given(weights, st.integers(9, 300))
def test_paper_budgets_equal_the_published_loop(build, values: list[float], kv_size: int) -> None:
    layers = len(values)
    importance = torch.tensor(values, dtype=torch.float64)
    method = build(kv_size, layers, layer_importance=importance, protocol="paper")
    got = method.budgets(layers, 6, 2, 100_000)
    assert got.shape == (layers, 2) and bool((got[:, :1] == got).all())
    assert got[:, 0].tolist() == published_budgets(values, kv_size)


@given(weights, st.integers(15, 300), st.integers(1, 1000), st.integers(0, 6))
def test_corrected_budgets_are_exact_and_within_bounds(
    build, values: list[float], kv_size: int, prompt: int, template: int
) -> None:
    layers = len(values)
    importance = torch.tensor(values, dtype=torch.float64)
    got = build(kv_size, layers, layer_importance=importance).budgets(
        layers, 6, 2, prompt, template
    )
    assert int(got.sum()) == min(kv_size, prompt) * layers * 2
    assert int(got.max()) <= min(prompt, 3 * kv_size)
    if prompt > kv_size:
        assert int(got.min()) >= max(min(32, kv_size), 8 + template + 1)


def test_unclipped_budgets_follow_the_formula_in_both_protocols(build) -> None:
    for protocol in ("corrected", "paper"):
        got = build(128, layer_importance=IMPORTANCE, protocol=protocol).budgets(3, 6, 2, 5000)
        assert got[:, 0].tolist() == [32 + 180, 32 + 36, 32 + 72]


def test_what_a_layer_cannot_use_goes_to_the_others(build) -> None:
    skewed = torch.tensor([100.0, 1.0, 3.0])
    short = {"num_layers": 3, "num_query_heads": 6, "num_kv_heads": 2, "prompt_tokens": 200}
    lost = build(128, layer_importance=skewed, protocol="paper").budgets(**short)
    kept = build(128, layer_importance=skewed).budgets(**short)
    assert int(lost.sum()) < 128 * 6 == int(kept.sum())
    assert kept[:, 0].tolist() == [200, 62, 122]  # 32 + 30, 32 + 90: one part and three


@pytest.mark.parametrize("importance", ["uniform", torch.zeros(3), torch.ones(3)])
@pytest.mark.parametrize("kv_size", [10, 32, 33, 128])
def test_without_importance_all_layers_keep_the_same(
    importance: torch.Tensor | str, kv_size: int, build
) -> None:
    for protocol in ("corrected", "paper"):
        method = build(kv_size, layer_importance=importance, protocol=protocol)
        assert (method.budgets(3, 6, 2, 500) == kv_size).all()


@pytest.mark.parametrize("protocol", ["corrected", "paper"])
def test_one_set_of_tokens_a_layer_equals_brute_force(protocol: str, build) -> None:
    generator = torch.Generator().manual_seed(4)
    queries = torch.randn(1, 6, 8, 16, generator=generator)
    keys = torch.randn(1, 2, 70, 16, generator=generator)
    scores = torch.tensor([[0.1, 0.5, 0.5, 0.0, 0.3, 0.9]] * 3)
    method = build(30, head_scores=scores, protocol=protocol)
    assert method.granularity == "kv_head"
    kept = select(method, queries, keys, 1)[0]
    summed = [0.0] * 62
    for head in (5, 1, 2, 4):  # the best four
        for w in range(8):
            logits = keys[0, head // 3, : 63 + w].double() @ queries[0, head, w].double() / 4
            row = torch.softmax(logits, 0)
            summed = [a + float(b) for a, b in zip(summed, row, strict=False)]
    padded = [0.0, 0.0, *summed, 0.0, 0.0]
    pooled = [sum(padded[t : t + 5]) for t in range(62)]
    sink = protocol == "corrected"
    order = sorted(range(62), key=lambda t: (t != 0 and sink, -pooled[t]))
    wanted = sorted(order[:22]) + list(range(62, 70))
    assert [head.tolist() for head in kept] == [wanted, wanted]


def test_fewer_heads_than_four_and_ties_take_the_earlier_head(build) -> None:
    queries, keys = torch.randn(1, 6, 8, 16), torch.randn(1, 2, 70, 16)
    tied = build(30, head_scores=torch.ones(3, 6))
    first = build(30, head_scores=torch.tensor([[4.0, 3, 2, 1, 0, 0]] * 3))
    pairs = zip(select(tied, queries, keys, 0)[0], select(first, queries, keys, 0)[0], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    few = build(30, head_scores=torch.ones(3, 2))
    assert len(select(few, queries[:, :2], keys, 0)[0]) == 2


def test_hybrid_models_share_the_budget_among_full_layers(build, head_scores, make_decoder) -> None:
    model = make_decoder("gemma2")
    given = {"head_scores": head_scores(4, 4), "layer_importance": torch.tensor([9, 1, 9, 3])}
    cache = CompressedCache(model.config, build(20, **given))
    with torch.no_grad():
        model(input_ids=torch.randint(3, 101, (1, 60)), past_key_values=cache)
    assert int(cache.kept_tokens[:, [1, 3]].sum()) == 20 * 2 * 2
    rows = build(40, **given).for_layers([1, 3]).budgets(2, 4, 2, 500)
    assert rows[:, 0].tolist() == [32 + 4, 32 + 12]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"layer_importance": torch.tensor([1.0, -1, 1])}, "not negative"),
        ({"top_heads": 0}, "top_heads=0"),
        ({"head_scores": None}, "without semantic head scores"),
    ],
)
def test_mistakes_are_named(parameters: dict[str, object], words: str, build) -> None:
    with pytest.raises(UserError, match=words):
        build(64, **parameters)


def test_importance_of_another_model_is_refused(build) -> None:
    with pytest.raises(UserError, match="one for each of 3 layers"):
        build(64, layer_importance=torch.ones(2)).budgets(3, 6, 2, 500)


CONFIG = LlamaConfig(num_hidden_layers=3, num_attention_heads=4, hidden_size=32)


def test_importance_files_round_trip_and_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "importance.json"
    save_layer_importance(path, IMPORTANCE, {"model": "m", "architecture": architecture_id(CONFIG)})
    assert load_layer_importance(path, CONFIG).tolist() == IMPORTANCE.tolist()
    other = LlamaConfig(num_hidden_layers=3, num_attention_heads=4, hidden_size=64)
    with pytest.raises(UserError, match="measured on another model"):
        load_layer_importance(path, other)
    assert len(load_layer_importance(path, other, allow_foreign=True)) == 3
    with pytest.raises(UserError, match="values for 3 layers"):
        load_layer_importance(path, LlamaConfig(num_hidden_layers=2))
    for text in (
        "",
        "[1]",
        '{"header": {}}',
        '{"header": {}, "importance": [0, 0, 0]}',
        '{"header": {}, "importance": [1, -1, NaN]}',
    ):
        path.write_text(text)
        with pytest.raises(UserError, match="cannot read layer importance") as raised:
            load_layer_importance(path, CONFIG)
        assert "\n" not in str(raised.value)


def attention_outputs(model: LlamaForCausalLM, cache: object, tokens: torch.Tensor) -> list:
    """What every attention module gives behind its output projection."""
    seen: list[torch.Tensor] = []
    hooks = [
        layer.self_attn.register_forward_hook(lambda module, given, output: seen.append(output[0]))
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model(input_ids=tokens, past_key_values=cache)
    for hook in hooks:
        hook.remove()
    return seen


def test_layer_errors_equal_those_of_two_caches(tiny: LlamaForCausalLM, build) -> None:
    """Layer 0, whose hidden states no cache has changed: full and probe cache one after another."""
    ids = torch.randint(3, 97, (1, 90), generator=torch.Generator().manual_seed(3))
    probe, full = build(32), build_method("fullkv")
    errors, steps = layer_errors(
        tiny, EncodedPrompt(ids[0].tolist(), 3, False), probe, Stopping(6, ())
    )
    assert steps == 6 and errors.shape == (3,) and bool((errors > 0).all())
    prefilled = prefill(tiny, {"input_ids": ids}, 3)
    answer = decode(tiny, prefilled, [prefilled.compress(full)], Stopping(6, ()))[0][0]
    caches = [prefilled.compress(full), prefilled.compress(probe)]
    assert int(caches[1].kept_tokens.sum()) == 32 * 3 * 2
    wanted = 0.0
    for token in answer:  # one step at a time, as generation does
        fed = torch.tensor([[token]])
        exact, small = (attention_outputs(tiny, cache, fed)[0] for cache in caches)
        wanted += float((small - exact).norm() / (exact.norm() + 1e-5))
    assert float(errors[0]) == pytest.approx(wanted, rel=1e-3)


def test_a_probe_that_keeps_everything_makes_no_error(tiny: LlamaForCausalLM, build) -> None:
    prompt = EncodedPrompt(list(range(3, 60)), 0, False)
    errors, _ = layer_errors(tiny, prompt, build(57), Stopping(4, ()))
    assert float(errors.max()) < 1e-5
    assert layer_errors(tiny, prompt, build(32), Stopping(4, tuple(range(97))))[1] == 0


@pytest.mark.parametrize("name", ["phi3", "gemma2", "qwen3"])
def test_any_decoders_output_projection_is_found(
    name: str, build, head_scores, make_decoder
) -> None:
    model = make_decoder(name)
    assert len(output_projections(model, 4)) == 4
    prompt = EncodedPrompt(torch.randint(3, 101, (60,)).tolist(), 0, False)
    probe = build(20, 4, head_scores=head_scores(4, 4))
    errors, _ = layer_errors(model, prompt, probe, Stopping(4, ()))
    full = [plan.index is not None for plan in plan_layers(model.config)]
    assert (errors > 0).tolist() == full


def test_a_decoder_without_one_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="Linear: 0 output projections found in 4 layers"):
        output_projections(torch.nn.Linear(2, 2), 4)


def test_data_sets_weigh_the_same() -> None:
    sums = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([10.0, 30.0]), "c": torch.zeros(2)}
    importance, shares = average(sums)
    assert importance.tolist() == [0.5, 0.5] and list(shares) == ["a", "b"]
    with pytest.raises(UserError, match="no layer's output changed"):
        average({"c": torch.zeros(2)})
    with pytest.raises(UserError, match="unknown data set"):
        ImportanceTests(data_sets=("retrievall",))
    with pytest.raises(UserError, match="lengths"):
        ImportanceTests(lengths=(0,))
    assert json.dumps(vars(ImportanceTests())) and len(ImportanceTests().grid()) == 40


def cell(*overrides: str):
    """The CompressKV cell of a composed config, with SmolLM2's own files."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("needle", ["method=[compresskv]", *overrides])
    settings = Settings.parse(OmegaConf.to_container(config, resolve=True))
    spec = load_spec("smollm2_135m")
    return build_cells(settings, spec, AutoConfig.from_pretrained(model_folder(spec)))[0]


def test_a_run_takes_the_models_own_files_and_says_so() -> None:
    own, even = cell(), cell("layer_importance=uniform")
    assert own.method.scorer.head_scores.shape == (30, 9)
    assert own.method.allocator.layer_importance.shape == (30,)
    assert even.method.identity["allocator"]["layer_importance"] == "uniform"
    assert own.identity != even.identity
    assert cell("methods.compresskv.allocator.layer_importance=uniform").identity == even.identity
    rows = own.method.budgets(30, 9, 3, 1000)
    assert int(rows.sum()) == 128 * 90 and rows.unique().numel() > 10
    json.dumps(own.identity)
    with pytest.raises(UserError, match="cannot read layer importance"):
        cell("layer_importance=missing.json")
