"""What the Python API is handed wrongly is refused by name, before or instead of an answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, LlamaConfig

from headkv import (
    CompressedCache,
    Stopping,
    UserError,
    build_method,
    decode,
    kept_positions,
    load_head_scores,
    load_results,
    longbench_prompt,
    prefill,
    score_longbench,
    select,
)
from headkv.storage.head_scores import write_scores

IDS = torch.randint(3, 97, (1, 60), generator=torch.Generator().manual_seed(0))
OTHER = IDS.repeat(1, 2).flip(1)
PARTS = torch.rand(1, 6, 8, 16), torch.rand(1, 2, 60, 16)
PAD = torch.tensor([[0] * 60, [1] * 60])
SHAPE = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def snap(**parameters: Any) -> Any:
    return build_method("snapkv", kv_size=32, **parameters)


def generate(model: Any, cache: Any, ids: torch.Tensor = IDS, **how: Any) -> CompressedCache:
    model.generate(ids, past_key_values=cache, max_new_tokens=3, do_sample=False, **how)
    return cache


def fresh(model: Any, **changes: Any) -> CompressedCache:
    return CompressedCache(LlamaConfig(**{**SHAPE, **changes}), snap())


def turn(model: Any, cache: CompressedCache) -> CompressedCache:
    """The first prompt, and a turn behind its answer."""
    texts = model.generate(IDS, past_key_values=cache, max_new_tokens=3, do_sample=False)
    return generate(model, cache, torch.cat([texts, IDS[:, :5]], 1))


Case = Callable[[Any], object]
CASES: dict[str, tuple[Case, str]] = {
    "second prompt": (
        lambda m: generate(m, generate(m, fresh(m))),
        "on a cache that holds another",
    ),
    "longer second prompt": (
        lambda m: generate(m, generate(m, fresh(m)), OTHER),
        "a prompt of 120 tokens on a cache that holds another, of 60",
    ),
    "longer prompt than was prefilled": (
        lambda m: generate(m, prefill(m, {"input_ids": IDS}).compress(snap()), OTHER),
        "a prompt of 120 tokens on a cache that holds another, of 60",
    ),
    "another second turn": (
        lambda m: generate(m, turn(m, fresh(m)), IDS.repeat(1, 3)),
        "on a cache that holds another, of 68",
    ),
    "shorter second prompt": (
        lambda m: generate(m, generate(m, fresh(m)), IDS[:, :20]),
        "no new tokens",
    ),
    "second batch": (
        lambda m: generate(m, generate(m, fresh(m)), IDS.repeat(2, 1)),
        "2 sequences on a cache that holds 1",
    ),
    "a name": (lambda m: CompressedCache(m.config, "snapkv"), "'snapkv' was given where a method"),
    "a model": (lambda m: CompressedCache(m, snap()), "model's config is wanted"),
    "fewer layers": (lambda m: generate(m, fresh(m, num_hidden_layers=2)), "layer 2"),
    "more layers": (lambda m: generate(m, fresh(m, num_hidden_layers=5)), "fewer layers"),
    "other heads": (lambda m: generate(m, fresh(m, num_key_value_heads=6)), "2 KV heads"),
    "other query heads": (
        lambda m: generate(m, fresh(m, num_attention_heads=12)),
        "a cache for 12 query heads was given to a model with 6",
    ),
    "other head_dim": (lambda m: generate(m, fresh(m, head_dim=32)), "of 16 dimensions"),
    "template": (lambda m: CompressedCache(m.config, snap(), -1), "template_tokens=-1"),
    "padding alone": (
        lambda m: generate(m, fresh(m), IDS.repeat(2, 1), attention_mask=PAD),
        "sequence 0 of the batch is padding alone",
    ),
    "short mask": (
        lambda m: m(IDS, attention_mask=torch.ones(1, 30), past_key_values=fresh(m)),
        "attention mask of ",
    ),
    "static": (
        lambda m: m.generate(IDS, cache_implementation="static", max_new_tokens=3),
        "a static cache",
    ),
    "attentions": (
        lambda m: m(IDS, past_key_values=fresh(m), output_attentions=True),
        "output_attentions",
    ),
    "empty prompt": (lambda m: prefill(m, {"input_ids": IDS[:, :0]}), "shape .1, 0."),
    "vocabulary": (lambda m: prefill(m, {"input_ids": IDS + 100}), "0 to 96"),
    "no ids": (lambda m: prefill(m, "a text"), "str without a tensor of input_ids"),
    "no cache": (
        lambda m: decode(m, prefill(m, {"input_ids": IDS}), [], Stopping(3, ())),
        "no cache",
    ),
    "stopping": (lambda m: Stopping(-1, ()), "max_new_tokens=-1"),
    "layer": (
        lambda m: select(snap(), torch.rand(1, 6, 8, 16), torch.rand(1, 2, 60, 16), -1),
        "layer -1",
    ),
    "head_dim": (
        lambda m: select(snap(), torch.rand(1, 6, 8, 16), torch.rand(1, 2, 60, 8), 0),
        "of shapes",
    ),
    "budgets": (lambda m: snap().budgets(3, 5, 2, 100), "5 query heads, 2 KV heads"),
    "complex": (
        lambda m: build_method("headkv_r", 32, head_scores=torch.ones(3, 6, dtype=torch.cfloat)),
        "head scores of type Tensor",
    ),
    "empty table": (
        lambda m: build_method("headkv_r", 32, head_scores=torch.zeros(0, 0)),
        "head scores of",
    ),
    "ids that are none": (
        lambda m: generate(m, CompressedCache(m.config, snap()), IDS + 100),
        "input_ids from 10. to",
    ),
    "no layer": (lambda m: select(snap(), *PARTS, True), "layer True"),
    "no method": (lambda m: select(None, *PARTS, 0), "types NoneType, Tensor"),
    "no tensors": (lambda m: select(snap(), [], [], 0), "types Method, list, list"),
    "names of methods": (lambda m: prefill(m, {"input_ids": IDS}, methods=["snapkv"]), "'snapkv'"),
    "row": (lambda m: kept_positions(prefill(m, {"input_ids": IDS}), snap(), 5), "row=5"),
    "no prompt": (lambda m: kept_positions(m, snap()), "where a prefilled prompt is wanted"),
    "no caches": (
        lambda m: decode(m, prefill(m, {"input_ids": IDS}), ["x"], Stopping(3, ())),
        "str was given where a compressed cache",
    ),
    "ends": (lambda m: CompressedCache(m.config, snap(), ends=IDS), "ends of type Tensor"),
    "no heads": (
        lambda m: CompressedCache(AutoConfig.for_model("rwkv"), snap()),
        "rwkv has no attention heads",
    ),
    "no name": (lambda m: build_method("snapkv", 32, scorer={}), "scorer has no name"),
    "no path": (lambda m: load_head_scores(None, m.config), "cannot read head scores"),
    "no folder": (lambda m: load_results(None), "NoneType was given where a folder"),
    "no row": (lambda m: longbench_prompt("qasper", None), "without a text"),
    "no answers": (lambda m: score_longbench("qasper", "a", None, None), "compared with None"),
    "no labels": (lambda m: score_longbench("trec", "a", ["a"], 5), "list of labels"),
    "kv_size": (lambda m: build_method("snapkv", 2**70), "kv_size=1180591620717411303424"),
}


@pytest.mark.parametrize("name", CASES)
def test_refused_by_name(name: str, tiny: Any) -> None:
    case, words = CASES[name]
    with pytest.raises(UserError, match=words):
        case(tiny)


def test_caches_of_two_granularities_or_the_same_twice(tiny: Any) -> None:
    prompt = prefill(tiny, {"input_ids": IDS})
    one, other = (prompt.compress(snap(granularity=g)) for g in ("kv_head", "query_head"))
    for caches, words in (([one, other], "granularities"), ([one, one], "twice")):
        with pytest.raises(UserError, match=words):
            decode(tiny, prompt, caches, Stopping(3, ()))


def test_a_reset_cache_and_further_turns_are_taken(tiny: Any) -> None:
    cache = generate(tiny, fresh(tiny))
    cache.reset()
    turn(tiny, cache)
    # After a crop back to the prompt, and with the new tokens alone, the mask telling so.
    cache.crop(60 - cache.get_seq_length())
    turns = torch.cat([IDS, IDS[:, :20]], 1)
    generate(tiny, cache, turns)
    mask = torch.ones(1, cache.get_seq_length() + 8, dtype=torch.long)
    generate(tiny, cache, IDS[:, 30:38], attention_mask=mask)
    beams = fresh(tiny)
    how = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 4, "do_sample": False}
    texts = tiny.generate(IDS, past_key_values=beams, **how)
    generate(tiny, beams, torch.cat([texts, texts[:, :9]], 1))


def test_multi_head_latent_attention_is_refused_before_the_first_token() -> None:
    with pytest.raises(UserError, match="multi-head latent attention"):
        CompressedCache(AutoConfig.for_model("deepseek_v3"), snap())


def test_a_window_that_no_layer_uses_is_no_pattern(make_decoder: Any) -> None:
    model = make_decoder(
        "qwen2_moe",
        use_sliding_window=False,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
    )
    cache = generate(model, CompressedCache(model.config, snap()))
    assert int(cache.kept_tokens.double().mean()) == 32


def test_a_path_is_taken_where_a_table_of_scores_is(tmp_path: Path) -> None:
    table = torch.rand(3, 6, generator=torch.Generator().manual_seed(1)).double()
    lists = {(i, j): [float(table[i, j])] for i in range(3) for j in range(6)}
    write_scores(tmp_path / "scores.json", lists, {"kind": "retrieval"})
    for given in (tmp_path / "scores.json", str(tmp_path / "scores.json")):
        assert torch.equal(build_method("headkv_r", 32, head_scores=given).allocator.scores, table)
    with pytest.raises(UserError, match="retrieval head scores where"):
        build_method("headkv_r2", 32, head_scores=tmp_path / "scores.json")
