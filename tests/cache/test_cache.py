"""The cache through plain `model.generate`: exact, honest about bytes, the same in a batch."""

import gc
import subprocess
import sys
import weakref

import pytest
import torch
from transformers import DynamicCache, LlamaForCausalLM

from headkv import CompressedCache, Stopping, UserError, decode, prefill, select
from headkv.cache import compressed_layer
from headkv.cache.layer_prompt import LayerPrompt
from headkv.config import names
from headkv.kernels.ragged import Ragged
from headkv.methods import Method

STEPS = 12
# Two read the prompt a second time, which a stock pass cannot, and one is told where its sentences
# end: see methods/test_contract.py.
STOCK = [name for name in names("method") if name not in ("kvzip", "kvcompose", "clausekv")]


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    """Two prompts of 60 and 43 tokens, left-padded."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 97, (2, 60), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, :17] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def alone(inputs: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    """One row without its padding."""
    start = int((inputs["attention_mask"][row] == 0).sum())
    return {key: value[row : row + 1, start:] for key, value in inputs.items()}


@pytest.fixture(scope="module")
def generate(generate):
    return lambda model, inputs, cache, steps=STEPS: generate(model, inputs, cache, steps)


@pytest.fixture(scope="module")
def build(make_method):
    def build(name: str, kv_size: int = 20, **parameters: object) -> Method:
        return make_method(name, kv_size, **parameters)

    return build


@pytest.mark.parametrize("granularity", ["kv_head", "query_head"])
def test_keep_all_equals_dynamic_cache(
    generate, tiny: LlamaForCausalLM, inputs: dict[str, torch.Tensor], granularity: str, build
) -> None:
    tiny.set_attn_implementation("sdpa")
    wanted, wanted_logits = generate(tiny, inputs, DynamicCache(config=tiny.config))
    tiny.set_attn_implementation("headkv")
    full = build("fullkv", granularity=granularity)
    for cache in (CompressedCache(tiny.config, full), DynamicCache(config=tiny.config)):
        got, logits = generate(tiny, inputs, cache)
        assert torch.equal(got, wanted)
        assert float((logits - wanted_logits).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("protocol", "granularity"), [("corrected", "kv_head"), ("paper", "query_head")]
)
@pytest.mark.parametrize("name", [name for name in STOCK if name != "fullkv"])
def test_batch_equals_rows_alone_and_shared_prefill(
    generate,
    tiny: LlamaForCausalLM,
    inputs: dict[str, torch.Tensor],
    name: str,
    granularity: str,
    protocol: str,
    build,
) -> None:
    method = build(name, granularity=granularity, protocol=protocol)
    cache = CompressedCache(tiny.config, method, template_tokens=3)
    together, logits = generate(tiny, inputs, cache)
    stored = cache.kept_tokens.shape[2]
    if protocol == "corrected":
        assert cache.kept_tokens.sum((1, 2)).tolist() == [20 * 3 * stored] * 2
    for row in range(2):
        single = CompressedCache(tiny.config, method, template_tokens=3)
        tokens, own = generate(tiny, alone(inputs, row), single)
        assert torch.equal(tokens[0], together[row])
        assert float((own[0] - logits[row]).abs().max()) < 1e-4
        assert torch.equal(single.kept_tokens[0], cache.kept_tokens[row])

    prefilled = prefill(tiny, inputs, template_tokens=3)
    before = [layer.keys.clone() for layer in prefilled.layers]
    cells = [method, build("fullkv", granularity=granularity), method]
    answers = decode(
        tiny, prefilled, [prefilled.compress(cell) for cell in cells], Stopping(STEPS, ())
    )
    assert answers[0] == answers[2] == together.tolist()
    assert all(
        torch.equal(a, layer.keys) for a, layer in zip(before, prefilled.layers, strict=True)
    )


def test_ragged_attention_equals_masked_dense(
    tiny: LlamaForCausalLM, inputs: dict[str, torch.Tensor], build
) -> None:
    """One decode step with evicted keys masked out of a full softmax, layer by layer."""
    method = build("headkv_r")
    prefilled = prefill(tiny, alone(inputs, 0))
    cache = prefilled.compress(method)
    for index, (layer, prompt) in enumerate(zip(cache.layers, prefilled.layers, strict=True)):
        query = torch.randn(1, 6, 1, 16)
        new = torch.randn(1, 2, 1, 16)
        keys, values = layer.update(new, new)
        got = layer.attend(query, keys, values, 0.25, None)
        kept = select(
            method, prompt.queries[:, :, -8:], prompt.keys, index, num_layers=3, scaling=0.25
        )
        visible = torch.zeros(1, 6, 1, 61, dtype=torch.bool)
        visible[..., 60] = True
        for head in range(6):
            visible[0, head, 0, kept[0][head // 3]] = True
        wanted = torch.nn.functional.scaled_dot_product_attention(
            query,
            torch.cat([prompt.keys, new], 2).repeat_interleave(3, 1),
            torch.cat([prompt.values, new], 2).repeat_interleave(3, 1),
            attn_mask=visible,
            scale=0.25,
        )
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", STOCK)
def test_bytes_are_those_of_the_entries(generate, tiny: LlamaForCausalLM, name: str, build) -> None:
    ids = torch.randint(3, 97, (1, 600))
    cache = CompressedCache(tiny.config, build(name, 64))
    generate(tiny, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, cache)
    tail = (STEPS - 1) * 2 * 3
    entries = int(cache.kept_tokens.sum()) + tail
    exact = entries * 2 * 16 * 4
    exact += sum(prefix.bias.nbytes for prefix in cache.prefixes if prefix.bias is not None)
    assert exact <= cache.nbytes <= 1.02 * exact


def test_a_layers_full_keys_are_gone_before_the_next_layer_compresses(
    tiny: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch, build
) -> None:
    """Peak memory of a stock prefill holds one layer's full cache, not all layers'."""
    compress = LayerPrompt.compress
    seen: list[tuple[weakref.ref, weakref.ref]] = []

    def watching(prompt: LayerPrompt, method: Method) -> Ragged:
        assert all(keys() is None and values() is None for keys, values in seen)
        seen.append((weakref.ref(prompt.keys), weakref.ref(prompt.values)))
        return compress(prompt, method)

    monkeypatch.setattr(LayerPrompt, "compress", watching)
    ids = torch.randint(3, 97, (1, 600))
    cache = CompressedCache(tiny.config, build("headkv_r", 64))
    gc.disable()
    try:
        with torch.no_grad():
            tiny(input_ids=ids, past_key_values=cache)
    finally:
        gc.enable()
    assert len(seen) == 3
    held = sum(p.keys.untyped_storage().nbytes() for p in cache.prefixes)
    assert held == int(cache.kept_tokens.sum()) * 16 * 4


@pytest.mark.parametrize("name", ["cake", "lava", "simlayerkv"])
def test_a_model_scope_holds_all_layers_until_the_last_and_no_longer(
    name: str, tiny: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch, build
) -> None:
    """Peak memory of a stock prefill is then the full cache's, as docs/scale.md says."""
    compress, seen = compressed_layer.compress_layers, []

    def watching(prompts: list[LayerPrompt], method: Method) -> list[Ragged]:
        seen.extend(weakref.ref(prompt.keys) for prompt in prompts)
        return compress(prompts, method)

    monkeypatch.setattr(compressed_layer, "compress_layers", watching)
    cache = CompressedCache(tiny.config, build(name, 64))
    gc.disable()
    try:
        with torch.no_grad():
            tiny(input_ids=torch.randint(3, 97, (1, 600)), past_key_values=cache)
    finally:
        gc.enable()
    assert len(seen) == 3 and all(keys() is None for keys in seen)
    assert int(cache.kept_tokens.sum()) == 64 * 6


def test_a_prefill_is_freed_with_its_last_name(
    tiny: LlamaForCausalLM, inputs: dict[str, torch.Tensor]
) -> None:
    """Not at the next garbage collection, hundreds of prompts later."""
    prefilled = prefill(tiny, inputs)
    held = [weakref.ref(prompt.keys) for prompt in prefilled.layers]
    gc.disable()
    try:
        del prefilled
        assert all(keys() is None for keys in held)
    finally:
        gc.enable()


LONG = """
import resource, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
from headkv import CompressedCache, build_method
import headkv.cache.attention
torch.manual_seed(0)
config = LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, num_key_value_heads=1, head_dim=16, vocab_size=50,
    max_position_embeddings=40000)
model = LlamaForCausalLM._from_config(config, attn_implementation="headkv").eval()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
cache = CompressedCache(config, build_method("adakv", kv_size=64))
with torch.no_grad():
    model(input_ids=torch.randint(0, 50, (1, 32768)), past_key_values=cache, logits_to_keep=1)
assert int(cache.kept_tokens.sum()) == 64
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_32k_tokens_fit() -> None:
    """One [token, token] matrix of one head would be 4 GiB (float32) or 1 GiB (bool)."""
    done = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 700


def test_nothing_of_a_prompt_stays_behind(
    generate, tiny: LlamaForCausalLM, inputs: dict[str, torch.Tensor], build
) -> None:
    """A short prompt first must not freeze anything (a fault of the published code)."""
    method = build("pyramidkv")
    wanted, _ = generate(tiny, alone(inputs, 0), CompressedCache(tiny.config, method))
    generate(
        tiny,
        {key: value[:, :25] for key, value in alone(inputs, 0).items()},
        CompressedCache(tiny.config, method),
    )
    again, _ = generate(tiny, alone(inputs, 0), CompressedCache(tiny.config, method))
    assert torch.equal(wanted, again)


def test_a_second_turn_on_a_compressed_cache(
    tiny: LlamaForCausalLM, inputs: dict[str, torch.Tensor], build
) -> None:
    """With everything kept, feeding the prompt in two chunks changes nothing."""
    ids = inputs["input_ids"][:1]
    whole = CompressedCache(tiny.config, build("fullkv"))
    parts = CompressedCache(tiny.config, build("fullkv"))
    with torch.no_grad():
        wanted = tiny(input_ids=ids, past_key_values=whole).logits[:, -1]
        tiny(input_ids=ids[:, :40], past_key_values=parts)
        got = tiny(input_ids=ids[:, 40:], past_key_values=parts).logits[:, -1]
    assert float((got - wanted).abs().max()) < 1e-4


def test_crop_takes_back_generated_tokens_only(
    tiny: LlamaForCausalLM, inputs: dict[str, torch.Tensor], build
) -> None:
    cache = CompressedCache(tiny.config, build("snapkv"))
    ids = inputs["input_ids"][:1]
    step = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        tiny(input_ids=ids, past_key_values=cache)
        wanted = tiny(input_ids=step, past_key_values=cache).logits
        cache.crop(-3)
        got = tiny(input_ids=step, past_key_values=cache).logits
    torch.testing.assert_close(got, wanted)
    with pytest.raises(UserError, match="reaches into the compressed prompt"):
        cache.crop(-4)


def test_end_tokens_and_rows_that_finish_early(
    tiny: LlamaForCausalLM, inputs: dict[str, torch.Tensor], build
) -> None:
    """Rows that end leave the batch; the others must not notice."""
    prefilled = prefill(tiny, inputs)
    methods = [build("snapkv"), build("headkv_r"), build("fullkv")]
    free = decode(tiny, prefilled, [prefilled.compress(m) for m in methods], Stopping(STEPS, ()))
    end = free[0][0][4]
    got = decode(tiny, prefilled, [prefilled.compress(m) for m in methods], Stopping(STEPS, (end,)))
    for answers, ended in zip(free, got, strict=True):
        for answer, short in zip(answers, ended, strict=True):
            assert short == (answer[: answer.index(end)] if end in answer else answer)
    banned = Stopping(3, (free[0][0][0],), min_new_tokens=1)
    assert decode(tiny, prefilled, [prefilled.compress(methods[0])], banned)[0][0]


@pytest.mark.parametrize("bad", [[1, 1, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0]])
def test_padding_elsewhere_is_refused(tiny: LlamaForCausalLM, bad: list[int], build) -> None:
    with pytest.raises(UserError, match="padding"), torch.no_grad():
        tiny(
            input_ids=torch.tensor([[5, 6, 7, 8]]),
            attention_mask=torch.tensor([bad]),
            past_key_values=CompressedCache(tiny.config, build("snapkv")),
        )


def test_another_attention_function_is_refused(
    generate, tiny: LlamaForCausalLM, inputs: dict[str, torch.Tensor], build
) -> None:
    tiny.set_attn_implementation("sdpa")
    try:
        with pytest.raises(UserError, match="never compressed"):
            generate(tiny, inputs, CompressedCache(tiny.config, build("snapkv")))
        with pytest.raises(UserError, match="attn_implementation is 'sdpa'"):
            prefill(tiny, inputs)
    finally:
        tiny.set_attn_implementation("headkv")
