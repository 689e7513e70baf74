"""Any decoder: tiny random models of many families through the one attention function."""

import pytest
import torch
from transformers import AutoConfig, DynamicCache, PreTrainedModel

from headkv import CompressedCache, Stopping, UserError, build_method, decode, prefill


def generate(model, cache, inputs, **options):
    output = model.generate(
        **inputs,
        past_key_values=cache,
        max_new_tokens=12,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_logits=True,
        **{"do_sample": False, **options},
    )
    return output.sequences, torch.stack(output.logits, 1)


def is_hybrid(decoder: PreTrainedModel) -> bool:
    types = getattr(decoder.config, "layer_types", None) or []
    return len(set(types)) > 1


def test_keep_all_equals_dynamic_cache(decoder: PreTrainedModel, batch) -> None:
    decoder.set_attn_implementation("eager")  # honours soft caps, which sdpa does not
    wanted, wanted_logits = generate(decoder, DynamicCache(config=decoder.config), batch())
    decoder.set_attn_implementation("headkv")
    for cache in (
        CompressedCache(decoder.config, build_method("fullkv")),
        DynamicCache(config=decoder.config),
    ):
        got, logits = generate(decoder, cache, batch())
        assert float((logits - wanted_logits).abs().max()) < 1e-4
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("name", ["snapkv", "pyramidkv", "adakv", "headkv_r"])
def test_compressed_batch_equals_rows_alone_and_shared_prefill(
    decoder: PreTrainedModel, name: str, batch, head_scores
) -> None:
    scores = head_scores(4, 4) if name == "headkv_r" else None
    method = build_method(name, kv_size=20, head_scores=scores)
    inputs = batch()
    cache = CompressedCache(decoder.config, method)
    together, logits = generate(decoder, cache, inputs)
    full = [layer for layer in range(4) if not is_hybrid(decoder) or layer % 2]
    kept = cache.kept_tokens[:, full].sum((1, 2))
    assert kept.tolist() == [20 * len(full) * 2] * 2
    if is_hybrid(decoder):
        assert cache.kept_tokens[:, 0].tolist() == [[23, 23], [23, 23]]
    for row, start in ((0, 0), (1, 13)):
        single = {key: value[row : row + 1, start:] for key, value in inputs.items()}
        tokens, own = generate(decoder, CompressedCache(decoder.config, method), single)
        assert float((own[0] - logits[row]).abs().max()) < 1e-4
        assert torch.equal(tokens[0, -12:], together[row, -12:])
    prefilled = prefill(decoder, inputs)
    caches = [prefilled.compress(method), prefilled.compress(build_method("fullkv"))]
    assert caches[1].kept_bytes == prefilled.nbytes
    answers = decode(decoder, prefilled, caches, Stopping(12, ()))
    assert answers[0] == together[:, -12:].tolist()


def test_soft_caps_change_something(batch, make_decoder) -> None:
    """Or the test above would not notice one that is ignored."""
    inputs = batch()
    capped, free = make_decoder("gemma2"), make_decoder("gemma2", attn_logit_softcapping=None)
    free.load_state_dict(capped.state_dict())
    _, a = generate(capped, CompressedCache(capped.config, build_method("fullkv")), inputs)
    _, b = generate(free, CompressedCache(free.config, build_method("fullkv")), inputs)
    assert float((a[:, 0] - b[:, 0]).abs().max()) > 1e-3


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 3},
    ],
)
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_beams_and_several_answers_equal_dynamic_cache(
    name: str, options: dict[str, object], batch, make_decoder
) -> None:
    model = make_decoder(name)
    full = CompressedCache(model.config, build_method("fullkv"))
    torch.manual_seed(5)
    got, _ = generate(model, full, batch(), **options)
    model.set_attn_implementation("eager")
    torch.manual_seed(5)
    wanted, _ = generate(model, DynamicCache(config=model.config), batch(), **options)
    assert torch.equal(got, wanted)


def test_beams_on_a_compressed_prompt(batch, make_decoder) -> None:
    """Beam search copies rows about; with one beam left it must be greedy search."""
    model = make_decoder("llama")
    method = build_method("adakv", kv_size=20)
    greedy, _ = generate(model, CompressedCache(model.config, method), batch())
    beams, _ = generate(
        model, CompressedCache(model.config, method), batch(), num_beams=3, num_return_sequences=3
    )
    cache = CompressedCache(model.config, method)
    with torch.no_grad():
        model(**{k: v.repeat_interleave(3, 0) for k, v in batch().items()}, past_key_values=cache)
    assert beams.shape[0] == 6 and greedy.shape[0] == 2
    assert (cache.kept_tokens[0] == cache.kept_tokens[2]).all()


def test_assisted_decoding_is_refused_by_name(batch, make_decoder) -> None:
    model = make_decoder("llama")
    cache = CompressedCache(model.config, build_method("snapkv", kv_size=20))
    one = {key: value[:1] for key, value in batch().items()}
    with pytest.raises(UserError, match="assisted decoding"):
        generate(model, cache, one, prompt_lookup_num_tokens=3)


@pytest.mark.parametrize("chunk", [1, 20, 49, 64])
def test_a_prompt_in_chunks_is_refused(batch, make_decoder, chunk: int) -> None:
    model = make_decoder("llama")
    cache = CompressedCache(model.config, build_method("snapkv", kv_size=20))
    with pytest.raises(UserError, match="prefill_chunk_size="):
        generate(model, cache, batch(), prefill_chunk_size=chunk)
    assert cache.get_seq_length() == 0
    generate(model, cache, batch())
    assert (cache.kept_tokens == 20).all()


def test_a_window_that_fills_up_is_refused(batch, make_decoder) -> None:
    model = make_decoder("mistral with its window", sliding_window=55)
    with pytest.raises(UserError, match="sliding window is 55"):
        generate(model, CompressedCache(model.config, build_method("snapkv", kv_size=20)), batch())
    short = make_decoder("mistral with its window", sliding_window=40)
    with pytest.raises(UserError, match="sliding window is 40"):
        generate(short, CompressedCache(short.config, build_method("snapkv", kv_size=20)), batch())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (AutoConfig.for_model("llama4_text", num_hidden_layers=4), "chunked attention layers"),
        (AutoConfig.for_model("gemma3n_text"), "share another layer's keys"),
        (AutoConfig.for_model("qwen3_next", num_hidden_layers=4), "linear attention layers"),
    ],
)
def test_layers_that_cannot_be_compressed_are_refused_by_name(config, words: str) -> None:
    with pytest.raises(UserError, match=words):
        CompressedCache(config, build_method("snapkv", kv_size=20))


def test_attention_sinks_are_refused_by_name(batch, make_decoder) -> None:
    model = make_decoder(
        "gpt_oss", layer_types=["full_attention"] * 4, num_local_experts=2, num_experts_per_tok=1
    )
    with pytest.raises(UserError, match="attention sinks"):
        generate(model, CompressedCache(model.config, build_method("snapkv", kv_size=20)), batch())


def test_several_turns_on_a_compressed_cache(batch, make_decoder) -> None:
    """The second turn sees what the first one kept, and all that was said since."""
    model = make_decoder("qwen2 with windows")
    ids = batch()["input_ids"][:1]
    more = torch.randint(3, 101, (1, 9))
    cache = CompressedCache(model.config, build_method("fullkv"))
    with torch.no_grad():
        model(input_ids=ids, past_key_values=cache)
        got = model(input_ids=more, past_key_values=cache).logits
        wanted = model(input_ids=torch.cat([ids, more], 1)).logits[:, -9:]
    assert float((got - wanted).abs().max()) < 1e-4
